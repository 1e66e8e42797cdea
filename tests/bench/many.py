"""Many small workflows at once: what is decided and said of each must not grow with how many others there are."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.measure import Row, rounds
from tests.e2e.world import World, wait_for, workflow

WORKFLOWS = 1000
SLOTS = 4
DEADLINE_S = 300.0
#: So many runs of one change are more than the usual guard lets start.
LIMITS = f"  limits: {{runs_per_commit: {WORKFLOWS}}}\n"


def cases() -> list[Row]:
    """Written to ended, and the same commands through xargs."""
    plain: list[float] = []

    def once() -> float:
        began = time.perf_counter()
        numbers = "\n".join(map(str, range(WORKFLOWS)))
        subprocess.run(["xargs", "-P", str(SLOTS), "-n", "1", "sh", "-c", "true"], input=numbers, text=True, check=True)
        plain.append(time.perf_counter() - began)
        return _makespan()

    def ratio(median: float) -> str:
        usual = sorted(plain)[len(plain) // 2]
        return f"{median / usual:.1f} x xargs -P {SLOTS} sh -c true ({usual:.2f} s)"

    return [rounds(f"{WORKFLOWS:,} workflows of one task on {SLOTS} slots, written to ended", once, "s", "", ratio)]


def _makespan() -> float:
    """Seconds from when the last manifest is in its folder until the last run has ended."""
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    world = World(root, slots=SLOTS)
    settings = world.folder / "settings.yaml"
    settings.write_text(settings.read_text().replace("---\n", f"{LIMITS}---\n", 1))
    documents = [workflow(f"w{number}", '- {id: t, command: "true"}') for number in range(WORKFLOWS)]
    world.start()
    try:
        wait_for(lambda: "SourceFetched" in world.text(), "the folder was read")
        began = time.perf_counter()
        for number in range(0, WORKFLOWS, 100):
            world.write(f"w{number}.yaml", "---\n".join(documents[number : number + 100]))
        wait_for(lambda: world.ended(WORKFLOWS), "every run has ended", DEADLINE_S)
        return time.perf_counter() - began
    finally:
        world.stop()
        shutil.rmtree(root, ignore_errors=True)
