"""`python -m tests.bench [case …]`: all benchmarks, or the named ones (planning, local, daemon, many, slurm)."""

from __future__ import annotations

import importlib
import sys

from tests.bench.measure import ROUNDS, calibrate, table

CASES = ("planning", "local", "daemon", "many", "slurm")


def main() -> None:
    chosen = [name for name in CASES if name in sys.argv[1:]] or list(CASES)
    calibrations = [calibrate() for _ in range(ROUNDS)]
    rows = []
    for name in chosen:
        rows += importlib.import_module(f"tests.bench.{name}").cases()
    print(table(rows, calibrations))


if __name__ == "__main__":
    main()
