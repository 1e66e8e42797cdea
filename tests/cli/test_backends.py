"""`check`, `queue` and the live part of `why`: asked of the backend itself, with no daemon running; what does not answer is said."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.record import TaskRecord, TaskState
from reconciler.ledger import Batch, Ledger
from tests.cli.command import REPOSITORY, SETTINGS, new_run, reconciler
from tests.e2e.world import World, wait_for, workflow

LOCAL = """\
---
apiVersion: scripthut/v1
kind: Backend
metadata: {{name: {name}}}
spec: {{type: local, max_concurrent: 2, spool: {spool}}}
"""
SLURM = """\
---
apiVersion: scripthut/v1
kind: Backend
metadata: {{name: far}}
spec: {{type: slurm, ssh: {{host: 127.0.0.1, port: {port}, user: ada, known_hosts: {known_hosts}}}}}
"""
RUN = "5f0c21d9a7be"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine at which nobody listens, and nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def folder_with(folder: Path, *backends: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "settings.yaml").write_text(SETTINGS + "".join(backends))
    return folder


def far(tmp_path: Path, port: int) -> str:
    (tmp_path / "known_hosts").touch()
    return SLURM.format(port=port, known_hosts=tmp_path / "known_hosts")


def test_check_tries_every_backend(tmp_path: Path) -> None:
    """What works and what does not is said of each backend; one that does not work is exit code 1."""
    (tmp_path / "file").touch()
    good, bad = LOCAL.format(name="good", spool=tmp_path / "spool"), LOCAL.format(name="bad", spool=tmp_path / "file" / "spool")
    folder = folder_with(tmp_path / "m", good, bad)
    result = reconciler("check", "--dir", folder)
    assert result.code == 1
    lines = result.out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == ["bad (local)", "good (local)"]
    assert f"  FAIL  spool: {tmp_path}/file cannot be written" in lines
    assert f"  ok    spool: {tmp_path}/spool/lab belongs to nobody yet" in lines
    assert reconciler("check", "good", "--dir", folder).code == 0
    assert not (tmp_path / "spool").exists()  # nothing was changed


def test_check_as_json(tmp_path: Path) -> None:
    """The same as data, with what the backend has."""
    folder = folder_with(tmp_path / "m", LOCAL.format(name="here", spool=tmp_path / "spool"))
    [told] = reconciler("check", "--json", "--dir", folder).json
    assert (told["name"], told["type"], [each["name"] for each in told["checks"]]) == ("here", "local", ["spool", "shell"])
    assert list(told["capacity"]) == ["slots", "free", "partitions", "limits"]


def test_check_of_a_cluster_that_does_not_answer(tmp_path: Path, closed_port: int) -> None:
    """Why it is not reached is said, and the other backends are tried all the same."""
    folder = folder_with(tmp_path / "m", LOCAL.format(name="here", spool=tmp_path / "spool"), far(tmp_path, closed_port))
    result = reconciler("check", "--dir", folder)
    assert result.code == 1
    assert [line.split()[0] for line in result.out.splitlines() if f"127.0.0.1:{closed_port}" in line] == ["FAIL"]
    assert "here (local)" in result.out


@pytest.mark.parametrize("verb", ["check", "queue"])
def test_a_backend_that_is_not_declared(tmp_path: Path, verb: str) -> None:
    """Its name is told, with those that there are."""
    folder = folder_with(tmp_path / "m", LOCAL.format(name="here", spool=tmp_path / "spool"))
    result = reconciler(verb, "there", "--dir", folder)
    assert (result.code, result.out, result.err) == (1, "", "reconciler: no backend 'there'; declared are: here\n")


def test_a_backend_whose_document_is_wrong(tmp_path: Path) -> None:
    """It is the document that is told of, with its place."""
    folder = folder_with(tmp_path / "m", LOCAL.format(name="here", spool=tmp_path / "spool").replace("max_concurrent", "max_concurrently"))
    result = reconciler("check", "here", "--dir", folder)
    assert (result.code, "settings.yaml:8:" in result.err, "max_concurrent" in result.err) == (1, True, True)


def test_queue_shows_what_lives(tmp_path: Path) -> None:
    """A running job of ours is shown beside the daemon, and gone when it has ended; as a table and as data."""
    world, gate = World(tmp_path), tmp_path / "gate"
    world.write("w.yaml", workflow("w", f'- {{id: t, command: "until [ -e {gate} ]; do sleep 0.05; done"}}'))
    world.start()
    try:
        wait_for(lambda: reconciler("queue", "local", "--json", "--dir", world.folder).json, "the job is shown")
        [row] = reconciler("queue", "local", "--json", "--dir", world.folder).json
        run = world.runs()[0]["id"]
        assert (row["name"], row["state"], row["ours"]) == (f"{run}.t.1", "running", True)
        head, line = reconciler("queue", "local", "--all", "--dir", world.folder).out.splitlines()
        assert head.split() == ["JOB", "NAME", "USER", "STATE", "OURS", "REASON"]
        assert (line.split()[1], line.split()[4]) == (f"{run}.t.1", "yes")
        gate.touch()
        wait_for(lambda: world.ended(1), "the run has ended")
        assert reconciler("queue", "local", "--json", "--dir", world.folder).json == []
    finally:
        world.kill()


def pending_run(folder: Path, backend: str) -> Path:
    """A ledger with a run whose second task is pending on `backend`."""
    records = {"setup": TaskRecord(TaskState.QUEUED, job_id="7", reason="Priority"), "build.x": TaskRecord()}
    new = new_run(RUN, "diamond", 2000.0, records)
    ledger = Ledger.open(folder / ".state", "lab")
    tasks = tuple(replace(task, backend=backend) for task in new.run.tasks)
    ledger.save(Batch(new_runs=(new._replace(run=replace(new.run, tasks=tasks, backend=backend)),)))
    ledger.close()
    return folder


def test_why_goes_on_without_the_scheduler(tmp_path: Path, closed_port: int) -> None:
    """What the ledger knows is told in any case; that the scheduler could not be asked is one more line."""
    folder = pending_run(folder_with(tmp_path / "m", far(tmp_path, closed_port)), "far")
    result = reconciler("why", RUN, "build.x", "--json", "--dir", folder)
    chain = result.json["chain"]
    assert (result.code, len(chain)) == (0, 6)
    assert chain[1] == "build.x waits for 1 of 1 tasks it needs: setup"
    assert chain[2].startswith("setup is pending (Priority): job 7 on far, for ")
    assert chain[4].startswith("far cannot be asked why now: ada@127.0.0.1:")
    assert chain[5].startswith("no daemon is running")


def test_why_asks_only_for_what_is_pending(tmp_path: Path) -> None:
    """A job that its backend does not show any more is said to be so; for a task that runs nobody is asked."""
    folder = pending_run(folder_with(tmp_path / "m", LOCAL.format(name="here", spool=tmp_path / "spool")), "here")
    chain = reconciler("why", RUN, "--json", "--dir", folder).json["chain"]
    assert "here does not show its job as waiting any more; the next look tells what became of it" in chain


def test_a_recovery_waits_for_every_backend(tmp_path: Path, closed_port: int) -> None:
    """Without a cluster nobody knows what runs there: nothing is rebuilt, and the message says which, why, and what to do."""
    folder = pending_run(folder_with(tmp_path / "m", far(tmp_path, closed_port)), "far")
    before = (folder / ".state" / "ledger.sqlite3").read_bytes()
    result = reconciler("recover", "--replace", "--dir", folder)
    assert (result.code, result.out) == (1, "")
    words = f"nothing was rebuilt: backend far (ada@127.0.0.1:{closed_port}:~/.reconciler/lab) cannot be asked what runs there: "
    assert (words in result.err, "remove its document" in result.err) == (True, True)
    assert (folder / ".state" / "ledger.sqlite3").read_bytes() == before
    assert not list((folder / ".state").glob("*.damaged-*"))


def test_a_folder_without_clusters_loads_no_ssh(tmp_path: Path) -> None:
    """A daemon with local backends and folders pays neither for ssh nor for git."""
    folder = folder_with(tmp_path / "m", LOCAL.format(name="here", spool=tmp_path / "spool"))
    code = (
        "import sys, pathlib; from reconciler.daemon import serve;"
        "print(serve(pathlib.Path(sys.argv[1]), once=True), [each for each in ('asyncssh', 'pygit2') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0 []\n"
