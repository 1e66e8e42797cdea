"""kill -9 at random moments, on a real Slurm: how often did each task run?  python -m tests.e2e.kill9_slurm --kills 300 --tasks 2000

Workflows of many shapes (equal tasks, which go out as job arrays; tasks that all differ; chains; random graphs; generators; tasks that
fail) run on a Slurm over ssh, while the daemon is killed again and again: at random moments, and on purpose just after it has saved that
it is about to submit. With `--faults all` sshd, slurmctld and the connections are broken and mended meanwhile (kill9_faults.py).
Workflows are added while kills are left, so that there is always work to interrupt; a kill that finds none left does not count. At the
end the files of all tasks, the spool and the ledger are compared, attempt by attempt (kill9_judge.py). Prints what was seen; exit code 1,
and names, when a promise was broken, or when it was not tried as often as asked.

The cluster is `tests/clusters/slurm.sh up --name NAME`'s; with faults nobody else should use it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clusters.cluster import Cluster
from tests.e2e.kill9_faults import Faults, Way, let_nodes_tell
from tests.e2e.kill9_judge import Verdict, Want, judge, read_attempts, read_ledger
from tests.e2e.world import World, workflow

#: A new workflow is written when fewer tasks than this are left to do: well above the room, so that no kill finds the machine idle.
AHEAD, ROOM = 120, 60
#: Of the kills, those that are aimed at a submission; and those that come after the daemon has seen a task through: were there none,
#: each submission in doubt would stay so to the end. The others come soon after its start.
AIMED, LATE = 0.4, 0.3
#: How long is waited for what a kill is aimed at, in seconds: there may be no room to submit, or nothing that can be reached.
AIM_S = 12.0
#: The longest task, without faults and with: what runs when slurmctld is killed is what it may forget, and end.
LONG_S = (3.0, 10.0)
#: A job that is sent on an idle cluster runs by then, in seconds.
GHOST_S = 10.0
#: Nodes are made to tell what they have so often at the end. What began less than 10 s ago (BatchStartTimeout) is not missed yet.
ASK_S = 15.0
SETTINGS = """\
apiVersion: scripthut/v1
kind: Settings
metadata: {{name: kill9}}
spec: {{state_dir: {state}, status_dir: {status}}}
---
apiVersion: scripthut/v1
kind: Backend
metadata: {{name: hpc}}
spec:
  type: slurm
  ssh: {{host: 127.0.0.1, port: {port}, user: {user}, key_path: {key}, known_hosts: {known_hosts}}}
  poll: {{min: 500ms, max: 5s}}
  spool: {spool}
  max_concurrent: {room}
  absence_grace: 1s
"""


@dataclass
class Field:
    """What was asked for so far: `wanted` holds every task that must run, by the name of its file."""

    world: World
    cluster: Cluster
    rng: random.Random
    faults: bool
    wanted: dict[str, Want] = field(default_factory=dict)
    workflows: int = 0

    @property
    def ran(self) -> Path:
        """The folder of the tasks' files."""
        return self.world.root / "ran"

    @property
    def spool(self) -> Path:
        """The spool of the daemon."""
        return self.world.root / "spool"

    def prepare(self, port: int, known_hosts: Path) -> None:
        """Make the folders that jobs write to, and the settings."""
        for folder in (self.ran, self.spool, self.world.root / "generated"):
            folder.mkdir()
            shutil.chown(folder, self.cluster.user)
        self.world.root.chmod(0o755)
        world, cluster = self.world, self.cluster
        settings = SETTINGS.format(
            state=world.state, status=world.status, port=port, user=cluster.user, key=cluster.key, known_hosts=known_hosts,
            spool=self.spool, room=ROOM,
        )  # fmt: skip
        world.write("settings.yaml", settings)

    def add(self) -> None:
        """One more workflow, of the next shape."""
        shapes: tuple[Callable[[str], list[dict[str, Any]]], ...] = (
            self._equal, self._different, self._chains, self._graph, self._generator, self._failing,
        )  # fmt: skip
        name, shape = f"w{self.workflows}", shapes[self.workflows % len(shapes)]
        self.workflows += 1
        rows = "\n".join(f"- {json.dumps(row)}" for row in shape(name))
        self.world.write(f"{name}.yaml", workflow(name, rows, backend="hpc"))

    def left(self) -> int:
        """How many tasks are not final yet, as far as the ledger says."""
        return len(self.wanted) - counted(self.world, "succeeded", "failed", "lost", "skipped", "cancelled")

    def _task(self, flow: str, task: str, **fields: Any) -> dict[str, Any]:
        """A task that appends a line when it begins and one when it ends."""
        return self._made(flow, task, Want(), "true", {"limit": 5, "on": ["lost", "node_fail"]}, fields)

    def _made(self, flow: str, task: str, want: Want, last: str, retry: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
        self.wanted[f"{flow}.{task}"] = want
        file = self.ran / f"{flow}.{task}"
        line = f'echo "$SCRIPTHUT_ATTEMPT {{}} $EPOCHREALTIME" >>{file}'
        long = self.rng.random() < 0.15
        pause_s = self.rng.uniform(0.5, LONG_S[self.faults]) if long else self.rng.uniform(0.0, 0.05)
        command = f"{line.format('began')}; sleep {pause_s:.2f}; {line.format('ended')}; {last}"
        retries = {"retry": retry} if self.faults or want.fails != 0 else {}
        return {"id": task, "command": command, "memory": "64M", **retries, **fields}

    def _equal(self, flow: str) -> list[dict[str, Any]]:
        """Nothing but the command differs."""
        return [self._task(flow, f"t{number}") for number in range(50)]

    def _different(self, flow: str) -> list[dict[str, Any]]:
        """No two ask for the same. A loss is final."""
        return [self._task(flow, f"t{number}", memory=f"{64 + number}M", retry={"limit": 0}) for number in range(30)]

    def _chains(self, flow: str) -> list[dict[str, Any]]:
        links = [(chain, link) for chain in range(6) for link in range(5)]
        return [self._task(flow, f"c{chain}.{link}", deps=[f"c{chain}.{link - 1}"] if link else []) for chain, link in links]

    def _graph(self, flow: str) -> list[dict[str, Any]]:
        """Each task needs up to two of the eight before it."""
        rows = []
        for number in range(40):
            low = max(0, number - 8)
            needs = {self.rng.randrange(low, number) for _ in range(self.rng.randint(0, 2))} if number else set()
            memory = self.rng.choice(("64M", "80M", "96M"))
            rows.append(self._task(flow, f"t{number}", deps=[f"t{need}" for need in sorted(needs)], memory=memory))
        return rows

    def _generator(self, flow: str) -> list[dict[str, Any]]:
        """A task that writes the tasks of a folder of its own: pairs, the second of which needs the first."""
        tasks = [self._task(flow, f"g{number}", deps=[f"g{number - 1}"] if number % 2 else []) for number in range(30)]
        home = self.world.root / "generated" / flow
        home.mkdir()
        shutil.chown(home, self.cluster.user)
        wanted = home.with_suffix(".json")
        wanted.write_text(json.dumps({"tasks": tasks}))
        first = self._task(flow, "t0")
        generate = self._task(flow, "generate", working_dir=str(home), generates_source="tasks.json", deps=["t0"])
        generate["command"] += f"; cp {wanted} tasks.json"
        return [first, generate]

    def _failing(self, flow: str) -> list[dict[str, Any]]:
        """Tasks that fail once or twice before they succeed, and some that never do."""
        rows = []
        for number in range(20):
            fails = None if number % 5 == 0 else number % 3
            file = self.ran / f"{flow}.t{number}"
            last = "exit 3" if fails is None else f"[ $(grep -c ended {file}) -gt {fails} ]"
            retry = {"limit": 1 if fails is None else fails + 5, "on": ["exit", "lost", "node_fail"]}
            rows.append(self._made(flow, f"t{number}", Want(fails), last, retry, {"allow_failure": fails is None}))
        return rows


def counted(world: World, *states: str) -> int:
    """How many tasks are in one of these states in the ledger."""
    return _number(world, f"SELECT count(*) FROM tasks WHERE state IN ({','.join('?' * len(states))})", states)


def _intents(world: World) -> int:
    """How many submissions were begun so far."""
    return _number(world, "SELECT count(*) FROM events WHERE name = 'TaskSubmitting'")


def _ends(world: World) -> int:
    """How many ends of tasks were seen so far."""
    return _number(world, "SELECT count(*) FROM events WHERE name IN ('TaskSucceeded', 'TaskFailed', 'TaskLost')")


def _number(world: World, query: str, values: tuple[str, ...] = ()) -> int:
    """What a query of the ledger gives; 0 while there is none that can be read."""
    path = world.state / "ledger.sqlite3"
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute(query, values).fetchone()[0])
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "locked" in str(error):
            return 0
        raise
    finally:
        connection.close()


@dataclass
class Kills:
    """Kills of the daemon so far: those that found work left, those that did not, and what was under way."""

    done: int = 0
    idle: int = 0
    found: Counter[str] = field(default_factory=Counter)

    def once(self, made: Field) -> None:
        """Start the daemon and kill it at a random moment."""
        world = made.world
        world.start()
        assert world.daemon is not None
        kind, pause_s = made.rng.random(), 0.2 + made.rng.expovariate(1 / 0.6)
        if kind < AIMED:
            self.found["in a submission"] += self._await(world, _intents)
            pause_s = made.rng.uniform(0.0, 0.4)
        elif kind < AIMED + LATE:
            self.found["after an end was seen"] += self._await(world, _ends)
            pause_s = made.rng.uniform(0.0, 1.5)
        try:
            code = world.daemon.wait(pause_s)
        except subprocess.TimeoutExpired:
            world.kill()
            self._count(made)
            return
        raise SystemExit(f"the daemon ended by itself with {code}: {world.text()[-2000:]}")

    def _await(self, world: World, number: Callable[[World], int]) -> bool:
        """Wait until this number in the ledger has grown. Whether it did in time."""
        before, end = number(world), time.monotonic() + AIM_S
        assert world.daemon is not None
        while time.monotonic() < end and world.daemon.poll() is None:
            if number(world) > before:
                return True
            time.sleep(0.01)
        return False

    def _count(self, made: Field) -> None:
        if made.left():
            self.done += 1
        else:
            self.idle += 1
        for state in ("submitting", "queued", "running", "cancelling"):
            self.found[f"with tasks {state}"] += bool(counted(made.world, state))


@dataclass(frozen=True)
class Asked:
    """How much is tried. `tasks` is the least number of tasks; there are more when the kills need them."""

    kills: int = 300
    tasks: int = 2000
    faults: bool = False
    seed: int = 1
    deadline_s: float = 3600.0


def campaign(cluster: Cluster, root: Path, asked: Asked) -> tuple[dict[str, object], list[str]]:
    """Run it all. What was seen, and the breaches."""
    rng = random.Random(asked.seed)
    way = Way(cluster)
    made = Field(World(root), cluster, rng, asked.faults)
    made.prepare(way.port, way.write_known_hosts(root / "known_hosts"))
    faults = Faults(cluster, way, random.Random(asked.seed))
    kills, began = Kills(), time.monotonic()
    try:
        if asked.faults:
            faults.start()
        try:
            while kills.done < asked.kills and time.monotonic() < began + asked.deadline_s:
                while made.left() < AHEAD or len(made.wanted) < asked.tasks * (kills.done + 1) / asked.kills:
                    made.add()
                kills.once(made)
        finally:
            if asked.faults:
                faults.stop()
        ghosts = _finish(made, began + asked.deadline_s)
    finally:
        if made.world.daemon is not None:
            made.world.kill()
        way.close()
    seen, breaches = _judged(made)
    about = {
        "kills": kills.done,
        "kills without work": kills.idle,
        "kills that fell": dict(kills.found),
        "faults": dict(faults.done),
        "ended jobs that slurmctld believes to run": ghosts,
        "tasks": len(made.wanted),
        "workflows": made.workflows,
    }
    if kills.done < asked.kills or len(made.wanted) < asked.tasks:
        breaches.append(f"not tried as often as asked: {asked.kills} kills, {asked.tasks} tasks")
    return {**about, **seen, "seconds": round(time.monotonic() - began, 1)}, breaches


def _finish(made: Field, deadline: float) -> int:
    """Let all runs end, stop the daemon, and wait until none of its jobs is left that could still do something.

    How many are left that cannot: a slurmctld that was killed believes of jobs that had just ended that they run, for minutes.
    """
    world = made.world
    world.start()
    asked_at = time.monotonic()
    while time.monotonic() < deadline and not world.ended(made.workflows):
        if made.faults and time.monotonic() > asked_at + ASK_S:
            let_nodes_tell(made.cluster)
            asked_at = time.monotonic()
        time.sleep(0.1)
    world.stop(deadline_s=30)
    end = time.monotonic() + LONG_S[1] + GHOST_S
    while (living := _living(made)) and (not made.faults or time.monotonic() < end):
        assert time.monotonic() < end, f"still in the queue: {living}"
        time.sleep(0.2)
    if living:
        made.cluster.run(["scancel", *living], "root")
    return len(living)


def _living(made: Field) -> list[str]:
    """Ids of its jobs in the queue; `unknown` when that cannot be asked."""
    done = made.cluster.run(["squeue", "-h", "-r", "-o", "%i %Z"], "root")
    rows = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return [job for job, folder in rows if folder.startswith(str(made.world.root))] or ["unknown"] * bool(done.returncode)


def _judged(made: Field) -> tuple[dict[str, object], list[str]]:
    verdict = Verdict()
    runs = made.world.runs()
    names = {run["id"]: run["workflow"] for run in runs}
    told = read_ledger(made.world.state / "ledger.sqlite3")
    judge(made.wanted, told, read_attempts(made.ran, made.spool / "kill9", names, verdict), verdict)
    hurt = {name for name, each in told.items() if each.state in ("lost", "skipped") or _failed_unasked(made, name, each.state)}
    verdict.breaches += _run_breaches(made, runs, hurt)
    if trouble := made.world.text().count("Traceback (most recent call last)"):
        verdict.breaches.append(f"the daemon's log holds {trouble} tracebacks")
    if not made.faults and (verdict.seen["started and lost"] or verdict.seen["ended by a signal"]):
        verdict.breaches.append("jobs ended that nobody had ended")
    if not (verdict.seen["sent in arrays"] and verdict.seen["sent alone"]):
        verdict.breaches.append("not tried: arrays and single jobs, both")
    return {**verdict.seen, "runs": dict(Counter(run["phase"] for run in runs))}, verdict.breaches


def _failed_unasked(made: Field, name: str, state: str) -> bool:
    return state == "failed" and made.wanted.get(name, Want()).fails is not None


def _run_breaches(made: Field, runs: list[dict[str, Any]], hurt: set[str]) -> list[str]:
    """A run for each workflow, ended; failed only where a task was hurt, and none is where nothing but the daemon was."""
    wrong = [] if len(runs) == made.workflows else [f"{made.workflows} workflows and {len(runs)} runs"]
    wrong += [f"{name}: hurt, and nothing but the daemon was killed" for name in sorted(hurt) if not made.faults]
    for run in runs:
        flow = run["workflow"].rpartition("/")[2]
        right = "Failed" if any(name.startswith(f"{flow}.") for name in hurt) else "Succeeded"
        if run["phase"] != right:
            wrong.append(f"{flow}: the run is {run['phase']} {run['stalled']}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--faults", choices=("none", "all"), default="none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=3600.0, help="seconds")
    parser.add_argument("--name", default="plain", help="of the cluster: what `slurm.sh up --name` was given")
    given = parser.parse_args()
    cluster = Cluster.read(Path("/var/lib/reconciler-slurm") / given.name / "cluster.json")
    root = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="kill9-"))  # not below /tmp, where jobs may see another folder
    asked = Asked(given.kills, given.tasks, given.faults == "all", given.seed, given.deadline)
    with cluster.held(alone=asked.faults):
        seen, breaches = campaign(cluster, root, asked)
    for name, value in seen.items():
        print(f"{name}: {value}")
    if breaches:
        print(f"{len(breaches)} breaches; kept: {root}", *breaches[:50], sep="\n  ")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
