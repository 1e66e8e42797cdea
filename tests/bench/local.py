"""The whole daemon on the local backend: from start to the end of the last task, with every guarantee on."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.measure import Row, rounds
from tests.e2e.world import World, wait_for, workflow


def cases() -> list[Row]:
    """The figures of issue 2, item 5, that concern running."""
    rows = [_commit_to_start(), _twenty(), _thousand()]
    _sweep()
    return rows


def _makespan(tasks: str, slots: int) -> float:
    """Seconds from the appearance of a workflow in the folder of a running daemon to the end of its run, as the ledger has it."""
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    world = World(root, slots=slots)
    world.start()
    try:
        wait_for(lambda: "SourceFetched" in world.text(), "the daemon has read its folder")
        began = time.time()
        world.write("w.yaml", workflow("w", tasks))
        runs = wait_for(lambda: world.ended(1), "the run has ended", 120)
        assert runs[0]["phase"] == "Succeeded"
        return float(runs[0]["ended_at"]) - began
    finally:
        world.stop()
        _LEFT.append(root)


#: Folders of earlier rounds. Removed together at the end: on ext4, making files is up to ten times slower right after many were removed.
_LEFT: list[Path] = []


def _sweep() -> None:
    while _LEFT:
        shutil.rmtree(_LEFT.pop())


def _twenty() -> Row:
    tasks = "\n".join(f"- {{id: t{number}, command: sleep 0.2}}" for number in range(20))
    return rounds("20 tasks of 0.2 s on 4 slots, written to ended (ideal 1.0 s)", lambda: _makespan(tasks, 4), "s", "<= 1.5")


def _thousand() -> Row:
    tasks = "\n".join(f'- {{id: t{number}, command: "true"}}' for number in range(1000))
    plain = []

    def once() -> float:
        began = time.perf_counter()
        numbers = "\n".join(map(str, range(1000)))
        subprocess.run(["xargs", "-P", "4", "-n", "1", "sh", "-c", "true"], input=numbers, text=True, check=True)
        plain.append(time.perf_counter() - began)
        return _makespan(tasks, 4)

    def ratio(median: float) -> str:
        usual = sorted(plain)[len(plain) // 2]
        return f"{median / usual:.1f} x xargs -P 4 sh -c true ({usual:.2f} s); aim <= 6"

    return rounds("1,000 tasks of true on 4 slots, written to ended", once, "s", "", ratio)


def _commit_to_start() -> Row:
    """A commit in a local git repository, to the moment its first task writes its start record."""
    from tests.gitrepo import GitRepo

    root = Path(tempfile.mkdtemp(prefix="bench-"))
    world = World(root, slots=4)
    repo = GitRepo(root / "repo")
    repo.commit({"README": "x"}, "first")
    head = "apiVersion: scripthut/v1\nkind: Source\nmetadata: {name: code}\nspec:\n"
    world.write("source.yaml", f"{head}  git: {{url: 'file://{root}/repo', branch: main}}\n")
    world.start()
    number = [0]
    try:
        wait_for(lambda: '"source": "code"' in world.text(), "the source was read")

        def once() -> float:
            number[0] += 1
            text = workflow(f"w{number[0]}", f'- {{id: t, command: "date +%s.%N > {root}/started{number[0]}"}}', backend="local")
            began = time.time()
            repo.commit({f".hut/w{number[0]}.yaml": text}, "add")
            began = time.time()
            path = root / f"started{number[0]}"
            started = wait_for(lambda: path.exists() and path.read_text().strip(), "the task has started")
            return (float(started) - began) * 1e3

        return rounds("commit to first task started, local git repository", once, "ms", "<= 300")
    finally:
        world.stop()
        shutil.rmtree(root)
