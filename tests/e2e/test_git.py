"""The main job with real git: what a commit runs, what it does not, and that a restart in between changes neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World, wait_for, workflow
from tests.gitrepo import GitRepo

DIAMOND = """\
- {id: a, command: "echo a"}
- {id: b, command: "echo b", deps: [a]}
- {id: c, command: "echo c", deps: [a]}
- {id: d, command: "echo d", deps: [b, c]}"""
SOURCE = """\
apiVersion: scripthut/v1
kind: Source
metadata: {{name: lab}}
spec:
  git: {{url: "{url}", branch: main}}
"""
FILE = ".hut/diamond.yaml"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "world")
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.kill()


@pytest.fixture
def repo(tmp_path: Path, world: World) -> GitRepo:
    """A repository with one commit and no workflow, followed by the world's daemon."""
    made = GitRepo(tmp_path / "repo")
    made.commit({"README": "nothing to run yet\n"}, "first")
    world.write("source.yaml", SOURCE.format(url=made.url))
    return made


def seen(world: World, sha: str) -> None:
    """Wait until the daemon has taken in a commit."""
    status = world.status / "source" / "lab.yaml"
    wait_for(lambda: status.exists() and sha in status.read_text(), f"commit {sha[:7]} was read")


@pytest.mark.parametrize("restart", [False, True], ids=["one daemon", "a restart between any two"])
def test_what_a_commit_runs(world: World, repo: GitRepo, restart: bool) -> None:
    """Adding a workflow runs it; a comment runs nothing; a changed command runs once; a revert nothing; a rerun token once."""
    text = workflow("diamond", DIAMOND)
    steps = [
        ("add", text, 1),
        ("comment", f"# only words\n{text}", 1),
        ("change", text.replace("echo d", "echo e"), 2),
        ("revert", text, 2),
        ("rerun", text.replace("spec:\n", "spec:\n  rerun: again\n"), 3),
    ]
    world.start()
    for message, content, runs in steps:
        sha = repo.commit({FILE: content}, message)
        seen(world, sha)
        wait_for(lambda runs=runs: world.ended(runs), f"{message}: {runs} runs have ended")
        if restart:
            assert world.stop() == 0
            starts = world.text().count("DaemonStarted")
            world.start()
            wait_for(lambda starts=starts: world.text().count("DaemonStarted") > starts, "the next daemon runs")
    assert [run["phase"] for run in world.runs()] == ["Succeeded"] * 3
    assert world.stop() == 0


def test_commits_while_the_daemon_is_down(world: World, repo: GitRepo) -> None:
    """What was committed while nobody looked runs once, at its newest version only."""
    world.start()
    wait_for(lambda: "SourceFetched" in world.text(), "the daemon runs")
    world.stop()
    text = workflow("diamond", DIAMOND)
    for word in ("one", "two", "three"):
        repo.commit({FILE: text.replace("echo d", f"echo {word}")}, word)

    assert world.call("run", "--once", str(world.folder)).returncode == 0

    assert [run["workflow"] for run in world.runs()] == ["lab/diamond"]
    run = world.runs()[0]["id"]
    assert world.call("logs", run, "d").stdout == "three\n"


def test_the_status_says_which_commit_made_a_result(world: World, repo: GitRepo) -> None:
    """A run's status file names the commit and the file; so does `get --json`."""
    sha = repo.commit({FILE: workflow("diamond", DIAMOND)}, "add")

    world.call("run", "--once", str(world.folder))

    status = (world.status / "run" / f"{world.runs()[0]['id']}.yaml").read_text()
    assert f"commit: {sha}" in status or f'commit: "{sha}"' in status
    assert f"main@sha1:{sha}" in status
    assert FILE in status


def test_a_force_push_never_touches_a_started_run(world: World, repo: GitRepo, tmp_path: Path) -> None:
    """History is rewritten while a run is under way: it goes on to its end, and the new commit's digest runs after it."""
    gate = tmp_path / "gate"
    first = repo.commit({"README": "two\n"}, "second")
    slow = workflow("diamond", f'- {{id: a, command: "until [ -e {gate} ]; do sleep 0.05; done"}}')
    repo.commit({FILE: slow}, "slow")
    world.start()
    wait_for(lambda: [run["phase"] for run in world.runs()] == ["Running"], "the first run is under way")

    repo.force(first)
    sha = repo.commit({FILE: workflow("diamond", '- {id: a, command: "true"}')}, "other")
    seen(world, sha)
    assert [run["phase"] for run in world.runs()] == ["Running"]
    gate.touch()

    runs = wait_for(lambda: world.ended(2), "both have ended")
    assert [run["phase"] for run in runs] == ["Succeeded", "Succeeded"]


def test_a_mass_removal_waits_for_a_person(world: World, repo: GitRepo) -> None:
    """A commit that removes most of a source's workflows removes nothing, says so and the cure; approving the commit lets it."""
    texts = {f".hut/w{number}.yaml": workflow(f"w{number}", '- {id: a, command: "true"}') for number in range(4)}
    repo.commit(texts, "four")
    world.start()
    wait_for(lambda: world.ended(4), "all four ran")

    sha = repo.commit(dict.fromkeys(texts), "none")
    status = world.status / "source" / "lab.yaml"
    wait_for(lambda: "Stalled" in status.read_text(), "the source is stalled")
    assert f"approve: {sha}" in status.read_text()
    assert (world.status / "workflow" / "lab" / "w0.yaml").exists()
    answer = world.call("approve", "Source/lab", sha)

    assert answer.returncode == 0, answer.stderr
    wait_for(lambda: not (world.status / "workflow" / "lab" / "w0.yaml").exists(), "the workflows are gone")
    assert len(world.runs()) == 4
