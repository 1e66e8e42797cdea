"""How every benchmark here is measured: five rounds, the median, and the same fixed loop timed in the same run.

The machine's speed drifts, so a figure means something only beside the calibration of the same run. Nothing is asserted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `aim` is what the project asks for on a 2-core machine, in the same unit; `ratio` is in words."""

    name: str
    median: float
    low: float
    high: float
    unit: str
    aim: str
    ratio: str = ""


def calibrate() -> float:
    """Seconds for a fixed piece of pure Python: two million additions and a dictionary of 100,000 entries."""
    began = time.perf_counter()
    total = 0
    for number in range(2_000_000):
        total += number
    table = {str(number): number for number in range(100_000)}
    assert total and table
    return time.perf_counter() - began


def rounds(name: str, once: Callable[[], float], unit: str, aim: str, ratio: Callable[[float], str] | None = None) -> Row:
    """Measure `once` (which returns its own figure, already in `unit`) five times."""
    figures = sorted(once() for _ in range(ROUNDS))
    median = statistics.median(figures)
    return Row(name, median, figures[0], figures[-1], unit, aim, ratio(median) if ratio else "")


def table(rows: list[Row], calibrations: list[float]) -> str:
    """The rows for a person, with the calibration loop first."""
    calibration = Row("calibration loop", statistics.median(calibrations) * 1e3, min(calibrations) * 1e3, max(calibrations) * 1e3, "ms", "")
    lines = [f"{'case':58} {'median':>10} {'min':>10} {'max':>10} {'unit':5} {'aim':>10}  ratio"]
    for row in [calibration, *rows]:
        lines.append(f"{row.name:58} {row.median:10.2f} {row.low:10.2f} {row.high:10.2f} {row.unit:5} {row.aim:>10}  {row.ratio}")
    return "\n".join(lines)
