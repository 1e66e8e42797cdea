"""Replay and explore simulated worlds.

python -m tests.sim --seed 1234                      one world, told line by line
python -m tests.sim --seed 1234 --wrong "no grace"   the same, with the wrong planner whose name holds this
python -m tests.sim --seeds 0:20000                  many worlds; each that breaks a promise is named with its replay
python -m tests.sim --measure 300                    in how many worlds each wrong planner shows
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.sim.simulation import Subject, simulate
from tests.sim.wrong import WRONG


def main() -> int:
    """0 when every promise was kept (with --measure: when every wrong planner was caught), else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", metavar="FIRST:END")
    parser.add_argument("--wrong", metavar="NAME", default="")
    parser.add_argument("--measure", type=int, metavar="SEEDS")
    asked = parser.parse_args()
    subject = next((each.subject for each in WRONG if asked.wrong and asked.wrong in each.name), Subject())
    if asked.measure:
        return _measure(asked.measure)
    if asked.seeds:
        first, _, end = asked.seeds.partition(":")
        return _explore(range(int(first), int(end)), subject)
    return _replay(asked.seed or 0, subject)


def _replay(seed: int, subject: Subject) -> int:
    try:
        print(simulate(seed, subject, say=print))
    except AssertionError as broken:
        print(f"BROKEN {broken}")
        return 1
    return 0


def _explore(seeds: range, subject: Subject) -> int:
    began, broken = time.monotonic(), 0
    totals: Counter[str] = Counter()
    for seed in seeds:
        try:
            outcome = simulate(seed, subject)
        except Exception as error:  # one world must not hide the others
            broken += 1
            print(f"seed {seed}: {type(error).__name__} {error}\n    python -m tests.sim --seed {seed}")
            continue
        totals.update({state.value: number for state, number in outcome.states.items()})
        totals.update(steps=outcome.steps, crashes=outcome.crashes, jobs=outcome.works, lost_submissions=outcome.losses)
        totals.update(stalled_runs=outcome.stalled, restored_ledgers=outcome.restored)
    told = ", ".join(f"{number} {name}" for name, number in sorted(totals.items()))
    print(f"{len(seeds)} worlds, {broken} broken, {time.monotonic() - began:.1f} s: {told}")
    return int(broken > 0)


def _measure(budget: int) -> int:
    missed = 0
    for wrong in WRONG:
        caught: dict[int, str] = {}
        for seed in range(budget):
            try:
                simulate(seed, wrong.subject)
            except AssertionError as broken:
                caught[seed] = str(broken)
        missed += not caught
        first = min(caught, default=-1)
        numbers = Counter(text.partition(":")[0].removeprefix("promise ") for text in caught.values())
        print(f"{wrong.name:46} first caught by world {first:4}, in {len(caught)} of {budget}, by promise {dict(numbers)}", flush=True)
        if caught:
            print(f"    {caught[first][:200]}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
