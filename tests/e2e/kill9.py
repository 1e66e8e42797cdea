"""kill -9 at random moments: how often did each task run?  python -m tests.e2e.kill9 --kills 300 --tasks 1000

Workflows of mixed shape (chains, fans, diamonds, generators) run on the local backend while the daemon is killed again and again,
at moments from a few milliseconds after its start to a second later. Each task, generated ones too, appends one line to its own
file. Workflows are added while kills are left, so that there is always work to interrupt; a kill that finds none left does not
count. At the end every file must hold exactly one line and every workflow must have ended. Prints what was seen; exit code 1 when
a promise was broken, or when it was not tried as often as asked.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.world import World, workflow

#: Tasks of one workflow; of one with a generator, so many of them are generated.
SIZE, GENERATED = 50, 20
#: A new workflow is written when fewer tasks than this are left to do: well above the slots, so that no kill finds the machine idle.
AHEAD = 40
SLOTS = 6


@dataclass
class Field:
    """What was asked for so far: `expected` holds the file of every task that must run."""

    world: World
    ran: Path
    rng: random.Random
    expected: set[str] = field(default_factory=set)
    workflows: int = 0

    def add(self) -> None:
        """One more workflow; every other one has a generator."""
        index, self.workflows = self.workflows, self.workflows + 1
        generated = 0 if index % 2 else GENERATED
        rows = self._rows(index, SIZE - generated)
        if generated:
            rows.append(self._generator(index, generated))
        self.world.write(f"w{index}.yaml", workflow(f"w{index}", "\n".join(rows)))

    def left(self) -> int:
        """How many tasks have not run to their line yet."""
        return len(self.expected) - len({path.name for path in self.ran.iterdir()} & self.expected)

    def _command(self, name: str) -> str:
        self.expected.add(name)
        return f"echo x >> {self.ran}/{name}; sleep 0.0{self.rng.randint(0, 5)}"

    def _rows(self, index: int, count: int) -> list[str]:
        """Each task needs up to two of the eight before it."""
        rows = []
        for number in range(count):
            low = max(0, number - 8)
            needs = sorted({self.rng.randrange(low, number) for _ in range(self.rng.randint(0, 2))}) if number else []
            command = self._command(f"w{index}.t{number}")
            rows.append(f'- {{id: t{number}, command: "{command}", deps: [{", ".join(f"t{need}" for need in needs)}]}}')
        return rows

    def _generator(self, index: int, count: int) -> str:
        """A task that writes the tasks of a folder of its own: pairs, the second of which needs the first."""
        tasks = []
        for number in range(count):
            needs = [f"g{number - 1}"] if number % 2 else []
            tasks.append({"id": f"g{number}", "command": self._command(f"w{index}.g{number}"), "deps": needs})
        home = self.world.root / "generated" / f"w{index}"
        home.mkdir(parents=True)
        wanted = self.world.root / "generated" / f"w{index}.json"
        wanted.write_text(json.dumps({"tasks": tasks}))
        code = f"import json; json.dump(json.load(open('{wanted}')), open('tasks.json', 'w'))"
        command = f'{self._command(f"w{index}.generate")}; python3 -c "{code}"'
        return f"- {{id: generate, command: {json.dumps(command)}, working_dir: {home}, generates_source: tasks.json, deps: [t0]}}"


def campaign(root: Path, kills: int, tasks: int, seed: int, deadline_s: float) -> dict[str, object]:
    """Run it all, and say what was seen. `tasks` is the least number of tasks; there are more when the kills need them."""
    world = World(root, slots=SLOTS, grace="200ms")
    made = Field(world, root / "ran", random.Random(seed))
    made.ran.mkdir()
    while len(made.expected) < tasks:
        made.add()
    began = time.monotonic()
    done = idle = 0
    while done < kills and time.monotonic() < began + deadline_s:
        while made.left() < AHEAD:
            made.add()
        world.start()
        worked = _killed(made)
        done, idle = done + worked, idle + (not worked)
    world.start()
    while time.monotonic() < began + deadline_s and not world.ended(made.workflows):
        time.sleep(0.1)
    runs = world.runs()
    world.stop()
    lines = Counter({path.name: path.read_text().count("x\n") for path in made.ran.iterdir()})
    return {
        "kills": done,
        "kills asked for": kills,
        "kills without work": idle,
        "tasks": len(made.expected),
        "tasks asked for": tasks,
        "workflows": made.workflows,
        "ran once": sum(lines[name] == 1 for name in made.expected),
        "ran twice": sorted(name for name in made.expected if lines[name] > 1),
        "never ran": sorted(name for name in made.expected if not lines[name]),
        "unexpected": sorted(set(lines) - made.expected),
        "runs": dict(Counter(run["phase"] for run in runs)),
        "seconds": round(time.monotonic() - began, 1),
    }


def _killed(made: Field) -> bool:
    """Kill the daemon at a random moment. Whether there was work left when it died."""
    world = made.world
    assert world.daemon is not None
    try:
        code = world.daemon.wait(0.3 + made.rng.expovariate(1 / 0.35))
    except subprocess.TimeoutExpired:
        world.kill()
        return made.left() > 0
    raise SystemExit(f"the daemon ended by itself with {code}: {world.text()[-2000:]}")


def broken(seen: dict[str, object]) -> bool:
    """Whether a promise was broken, or less was tried than asked for."""
    trouble = seen["ran twice"] or seen["never ran"] or seen["unexpected"] or seen["runs"] != {"Succeeded": seen["workflows"]}
    asked = [(seen[name], seen[f"{name} asked for"]) for name in ("kills", "tasks")]
    return bool(trouble) or any(int(str(got)) < int(str(wanted)) for got, wanted in asked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=1800.0)
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kill9-"))
    seen = campaign(root, given.kills, given.tasks, given.seed, given.deadline)
    for name, value in seen.items():
        print(f"{name}: {value}")
    if broken(seen):
        print(f"a promise was broken, or not tried as often as asked; kept: {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
