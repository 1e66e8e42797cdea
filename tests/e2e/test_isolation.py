"""What one bad thing does to the others (nothing), and what never leaves the daemon (secrets)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World, wait_for, workflow

GOOD = workflow("good", '- {id: a, command: "true"}', backend="local")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose daemon is gone when the test is."""
    made = World(tmp_path / "world")
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.kill()


def source(name: str, where: str) -> str:
    return f"apiVersion: scripthut/v1\nkind: Source\nmetadata: {{name: {name}}}\nspec: {{{where}}}\n"


def phases(world: World) -> dict[str, str]:
    """The phase of each workflow's run."""
    return {run["workflow"]: run["phase"] for run in world.runs()}


def status(world: World, *parts: str) -> str:
    """The status file of an object; "" while there is none."""
    path = world.status.joinpath(*parts[:-1], f"{parts[-1]}.yaml")
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("kind", ["a missing folder", "a missing repository"])
def test_an_unreachable_source_stops_nobody_else(world: World, tmp_path: Path, kind: str) -> None:
    """A Source that cannot be read says so in its status; another Source and the trusted folder run, and it runs once it is there."""
    gone, there = tmp_path / "gone", tmp_path / "there"
    there.mkdir()
    (there / "w.yaml").write_text(workflow("w", '- {id: a, command: "true"}'))
    where = f'path: "{gone}"' if kind == "a missing folder" else f'git: {{url: "file://{gone}"}}'
    world.write("bad.yaml", source("bad", where))
    world.write("fine.yaml", source("fine", f'path: "{there}", include: ["*.yaml"]'))
    world.write("good.yaml", GOOD)
    world.start()

    wait_for(lambda: phases(world) == {"good": "Succeeded", "fine/w": "Succeeded"}, "the good ones have run")
    wait_for(lambda: str(gone) in status(world, "source", "bad"), "the status of the bad one says what is missing")
    if kind == "a missing folder":
        (gone / ".hut").mkdir(parents=True)
        (gone / ".hut" / "late.yaml").write_text(workflow("late", '- {id: a, command: "true"}'))
        wait_for(lambda: phases(world).get("bad/late") == "Succeeded", "it runs once the folder is there", 60)


def test_a_backend_whose_spool_cannot_be_written_stops_nobody_else(world: World, tmp_path: Path) -> None:
    """Runs of a backend without a usable spool wait and say why; those of the other backend run; nothing of it is lost."""
    (tmp_path / "file").write_text("no folder\n")
    backend = f"apiVersion: scripthut/v1\nkind: Backend\nmetadata: {{name: broken}}\nspec: {{type: local, spool: {tmp_path}/file/spool}}\n"
    world.write("broken.yaml", backend)
    world.write("stuck.yaml", workflow("stuck", f'- {{id: a, command: "echo x >> {tmp_path}/ran"}}', backend="broken"))
    world.write("good.yaml", GOOD)
    world.start()

    wait_for(lambda: phases(world).get("good") == "Succeeded", "the good one has run")
    wait_for(lambda: str(tmp_path / "file") in status(world, "backend", "broken"), "the backend's status names the spool")
    assert phases(world)["stuck"] not in ("Succeeded", "Failed", "Cancelled")
    (tmp_path / "file").unlink()

    wait_for(lambda: phases(world)["stuck"] == "Succeeded", "it runs once the spool can be made", 90)
    assert (tmp_path / "ran").read_text() == "x\n"


def test_a_burst_of_files(world: World, tmp_path: Path) -> None:
    """Two hundred workflows written one after the other, as fast as can be, all run, and each once."""
    settings = world.folder / "settings.yaml"
    settings.write_text(
        settings.read_text().replace("spec:\n", "spec:\n  limits: {runs_per_commit: 200}\n", 1).replace("_concurrent: 4", "_concurrent: 8")
    )
    ran = tmp_path / "ran"
    ran.mkdir()
    world.start()
    wait_for(lambda: "SourceFetched" in world.text(), "the daemon runs")

    for number in range(200):
        (world.folder / f"w{number}.yaml").write_text(workflow(f"w{number}", f'- {{id: a, command: "echo x >> {ran}/{number}"}}'))

    runs = wait_for(lambda: world.ended(200), "all have ended", 90)
    assert {run["phase"] for run in runs} == {"Succeeded"}
    assert [(ran / str(number)).read_text() for number in range(200)] == ["x\n"] * 200


def test_a_deleted_and_recreated_folder(world: World, tmp_path: Path) -> None:
    """The trusted folder is removed and comes back: nothing that ran runs again, and what is new in it runs."""
    world.write("good.yaml", workflow("good", f'- {{id: a, command: "echo x >> {tmp_path}/ran"}}'))
    world.start()
    wait_for(lambda: world.ended(1), "the first run has ended")
    kept = tmp_path / "kept"
    shutil.copytree(world.folder, kept)

    shutil.rmtree(world.folder)
    wait_for(lambda: "SourceUnreachable" in world.text() or "SourceRefused" in world.text(), "the daemon says that it is gone", 60)
    shutil.copytree(kept, world.folder)
    world.write("new.yaml", workflow("new", '- {id: a, command: "true"}'))

    wait_for(lambda: phases(world) == {"good": "Succeeded", "new": "Succeeded"}, "the new one has run", 60)
    assert len(world.runs()) == 2
    assert (tmp_path / "ran").read_text() == "x\n"


def test_secrets_are_shown_nowhere(world: World) -> None:
    """A token in a git url and a value of an environment are in no log line, status file, event or answer of a read verb."""
    token, value = "ghp-5ecret70ken", "hunter2hunter2"
    world.write("private.yaml", source("private", f'git: {{url: "https://user:{token}@127.0.0.1:1/x.git"}}'))
    task = f'- {{id: a, command: "test $API_TOKEN = {value[:7]}$SUFFIX", env: [{{set: {{API_TOKEN: {value}, SUFFIX: {value[7:]}}}}}]}}'
    world.write("w.yaml", workflow("w", task))
    world.start()
    runs = wait_for(lambda: world.ended(1), "the run has ended")
    wait_for(lambda: "127.0.0.1" in status(world, "source", "private"), "the source's status says what failed")
    assert [run["phase"] for run in runs] == ["Succeeded"]  # so the job had the value
    assert world.stop() == 0

    verbs = [
        ("get",),
        ("get", "run", "w"),
        ("get", "workflow", "w"),
        ("get", "source", "private"),
        ("events", "Source/private"),
        ("events", "w"),
        ("why", "w"),
    ]
    answers = [(words, world.call(*words, *more)) for words in verbs for more in ((), ("--json",))]
    shown = {" ".join(words): answer.stdout + answer.stderr for words, answer in answers}
    shown |= {str(path): path.read_text() for path in world.status.rglob("*") if path.is_file()}
    shown["the log"] = world.text()
    assert [(words, answer.stderr) for words, answer in answers if answer.returncode or not answer.stdout] == []
    assert [name for name, text in shown.items() if token in text or value in text] == []
