"""`python -m tests.bench.slurm_watched FOLDER OUT`: the daemon on FOLDER, with somebody inside who watches its event loop.

Started by slurm.py. A task sleeps 5 ms and notes how much too late it wakes: that is how long everybody else had to wait, too. A thread
notes where the loop's thread is meanwhile. At the end all is written to OUT, as JSON: `late`, (when, how long, where) of all above
20 ms; `looks`, (when, how long, whether the scheduler was asked).
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from reconciler.backends.cluster import ClusterBackend
from reconciler.config import read_settings
from reconciler.core.observed import Expected, Snapshot
from reconciler.daemon import Daemon
from reconciler.log import configure

BEAT_S = 0.005
NOTED_S = 0.02
_DEPTH = 4


class Watch:
    """What was noticed."""

    def __init__(self) -> None:
        self.late: list[tuple[float, float, float, str]] = []
        self.looks: list[tuple[float, float, bool]] = []
        self._beat = time.perf_counter()
        self._where: Counter[str] = Counter()
        self._thread = threading.get_ident()

    async def beat(self) -> None:
        """Until cancelled."""
        threading.Thread(target=self._sample, daemon=True).start()
        gc.callbacks.append(self._collecting)
        while True:
            self._beat = before = time.perf_counter()
            used = time.thread_time()
            await asyncio.sleep(BEAT_S)
            late = time.perf_counter() - before - BEAT_S
            if late >= NOTED_S:
                where = "; ".join(f"{place} x{count}" for place, count in self._where.most_common(2))
                self.late.append((time.time(), late, time.thread_time() - used, where))
            self._where.clear()

    def _collecting(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2 and threading.get_ident() == self._thread:
            self._where["garbage collection"] += 1

    def _sample(self) -> None:
        while True:
            time.sleep(BEAT_S)
            if time.perf_counter() - self._beat > 2 * BEAT_S:
                frame, names = sys._current_frames().get(self._thread), list[str]()
                while frame is not None and len(names) < _DEPTH:
                    code = frame.f_code
                    if not names or "reconciler" in code.co_filename:
                        names.append(f"{Path(code.co_filename).stem}.{code.co_name}:{frame.f_lineno}")
                    frame = frame.f_back
                self._where[" < ".join(names)] += 1

    def time_looks(self) -> None:
        """From now on."""
        plain = ClusterBackend.look

        async def look(backend: ClusterBackend, expected: Mapping[str, Expected]) -> Snapshot:
            at, began = time.time(), time.perf_counter()
            snapshot = await plain(backend, expected)
            self.looks.append((at, time.perf_counter() - began, snapshot.began_at >= at))
            return snapshot

        ClusterBackend.look = look  # type: ignore[method-assign, assignment]  # whose first parameter has another name there


async def _main(folder: Path, out: Path) -> None:
    watch = Watch()
    watch.time_looks()
    watching = asyncio.ensure_future(watch.beat())
    try:
        await Daemon(read_settings(folder)).run(False)
    finally:
        watching.cancel()
        out.write_text(json.dumps({"late": watch.late, "looks": watch.looks}))


if __name__ == "__main__":
    configure("json", "info", sys.stderr)
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2])))
