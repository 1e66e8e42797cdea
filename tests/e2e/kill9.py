"""kill -9 at random moments: how often did each task run?  python -m tests.e2e.kill9 --kills 300 --tasks 1000

Workflows of mixed shape (chains, fans, diamonds, generators) run on the local backend while the daemon is killed again and again,
at moments from a few milliseconds after its start to a second later. Each task appends one line to its own file. At the end every
file must hold exactly one line and every workflow must have ended. Prints what was seen; exit code 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.e2e.world import World, workflow


def shape_of(rng: random.Random, index: int, count: int, ran: Path) -> str:
    """One workflow of `count` tasks: each needs up to two of the eight before it."""
    rows = []
    for number in range(count):
        low = max(0, number - 8)
        needs = sorted({rng.randrange(low, number) for _ in range(rng.randint(0, 2))}) if number else []
        command = f"echo x >> {ran}/w{index}.t{number}; sleep 0.0{rng.randint(0, 5)}"
        rows.append(f'- {{id: t{number}, command: "{command}", deps: [{", ".join(f"t{need}" for need in needs)}]}}')
    return workflow(f"w{index}", "\n".join(rows))


def campaign(root: Path, kills: int, tasks: int, seed: int, deadline_s: float) -> dict[str, object]:
    """Run it all, and say what was seen."""
    rng = random.Random(seed)
    world = World(root, slots=6, grace="200ms")
    ran = root / "ran"
    ran.mkdir()
    size = 50
    count = max(1, tasks // size)
    for index in range(count):
        world.write(f"w{index}.yaml", shape_of(rng, index, size, ran))
    done, began = 0, time.monotonic()
    while time.monotonic() < began + deadline_s:
        world.start()
        assert world.daemon is not None
        if done >= kills:
            break
        try:
            code = world.daemon.wait(0.3 + rng.expovariate(1 / 0.35))
        except subprocess.TimeoutExpired:
            world.kill()
            done += 1
            continue
        raise SystemExit(f"the daemon ended by itself with {code}: {world.text()[-2000:]}")
    while time.monotonic() < began + deadline_s and not world.ended(count):
        time.sleep(0.1)
    runs = world.runs()
    world.stop()
    lines = Counter({path.name: path.read_text().count("x\n") for path in ran.iterdir()})
    expected = {f"w{index}.t{number}" for index in range(count) for number in range(size)}
    return {
        "kills": done,
        "tasks": len(expected),
        "ran once": sum(lines[name] == 1 for name in expected),
        "ran twice": sorted(name for name in expected if lines[name] > 1),
        "never ran": sorted(name for name in expected if not lines[name]),
        "runs": dict(Counter(run["phase"] for run in runs)),
        "seconds": round(time.monotonic() - began, 1),
    }


def broken(seen: dict[str, object], workflows: int) -> bool:
    """Whether a promise was broken."""
    return bool(seen["ran twice"] or seen["never ran"] or seen["runs"] != {"Succeeded": workflows})


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
    if broken(seen, max(1, given.tasks // 50)):
        print(f"a promise was broken; kept: {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
