"""The whole daemon on a real Slurm over a real ssh, beside what a person would type: a loop of sbatch, an array, a chain.

`python -m tests.bench slurm`; it needs root, because it brings up a Slurm of its own (slurm_site.py). Ours and by hand take turns, and a
figure is their ratio in the same turn. Smaller, while something is being changed: `python -m tests.bench.slurm equal=100 rounds=1`;
the names are those of `Sizes`, and a case with the size 0 is left out.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tests.bench.measure import Row, calibrate, table
from tests.bench.slurm_site import HELD, NoCluster, Site, site
from tests.bench.slurm_world import daemon, keep_scripts


@dataclass(frozen=True)
class Sizes:
    """How many tasks each case has, how many turns, and how many seconds many pending jobs are looked at."""

    equal: int = 1000
    unlike: int = 1000
    chain: int = 20
    many: int = 10_000
    rounds: int = 3
    pending_s: int = 60


#: A held partition takes jobs and starts none.
_HELD = f"  default_partition: {HELD}\n"
#: What Slurm gives a job here that asks for nothing.
_MEMORY = "memory: 64M"
_DEADLINE_S = 600.0


def cases(sizes: Sizes | None = None) -> list[Row]:
    """The figures of issue 3, item 4. Says on standard error why there are none, if so."""
    sizes = sizes or Sizes()
    try:
        with site() as here:
            return [
                *(_equal(here, sizes) if sizes.equal else []),
                *(_unlike(here, sizes) if sizes.unlike else []),
                *(_chain(here, sizes) if sizes.chain else []),
                *(_many(here, sizes) if sizes.many else []),
            ]
    except NoCluster as error:
        print(f"slurm: left out: {error}", file=sys.stderr)
        return []


def _row(name: str, figures: Sequence[float], unit: str, aim: float, more: str = "", least: bool = False) -> Row:
    """The median beside its aim (`least`: at least that)."""
    median = statistics.median(figures)
    fine = median >= aim if least else median <= aim
    verdict = "ok" if fine else "short" if least else "over"
    words = f"{verdict}; {more}" if more else verdict
    return Row(name, median, min(figures), max(figures), unit, f"{'>=' if least else '<='} {aim:g}", words)


def _span(figures: Sequence[float], unit: str = "s") -> str:
    return f"{statistics.median(figures):.2f} {unit} ({min(figures):.2f}–{max(figures):.2f})"


def _ratios(ours: Sequence[float], plain: Sequence[float]) -> list[float]:
    return [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]


def _progress(text: str) -> None:
    print(f"slurm: {text}", file=sys.stderr, flush=True)


# Equal tasks, which go out as an array


def _equal(here: Site, sizes: Sizes) -> list[Row]:
    count = sizes.equal
    tasks = "\n".join(f'- {{id: t{number}, command: "true", {_MEMORY}}}' for number in range(count))
    ours, plain, calls, commands, cpu, memory = [], [], [], [], [], []
    for _ in range(sizes.rounds):
        with daemon(here) as world:
            commands_before, cpu_before = here.commands(), world.cpu_s()
            ours.append(-world.commit(tasks) + world.wait_over(_DEADLINE_S))
            cpu.append(world.cpu_s() - cpu_before)
            commands.append((here.commands() - commands_before) / count)
            memory.append(world.peak_mb())
            calls.append(world.wait_calls() / count)
        plain.append(_array_by_hand(here, count))
        _progress(f"{count} equal tasks: ours {ours[-1]:.2f} s, one array {plain[-1]:.2f} s")
    words = f"{_span(ours)}; sbatch --array {_span(plain)}"
    return [
        _row(f"{count:,} equal tasks, commit to last seen ended, to an array", _ratios(ours, plain), "x", 1.25, words),
        _row("  commands of the scheduler per task, as the status has it", calls, "", 0.05),
        _row("  the same, as slurmctld counted", commands, "", 0.05),
        _row("  processor time of the daemon, from the commit on", cpu, "s", 3),
        _row("  peak of the daemon's resident memory", memory, "MB", 100),
    ]


def _array_by_hand(here: Site, count: int) -> float:
    since = here.now()
    began = here.by_hand(f"cd {here.folder()}\ndate +%s.%N\nsbatch --parsable --array=0-{count - 1} --wrap true\n").split()[0]
    ended = here.wait_completed(since, count, _DEADLINE_S)
    here.clear()
    return ended - float(began)


# Unlike tasks, each a call of sbatch


def _unlike(here: Site, sizes: Sizes) -> list[Row]:
    count = sizes.unlike
    tasks = "\n".join(f'- {{id: t{number}, command: "true", memory: {64 + number}M}}' for number in range(count))
    ours, plain, answered, whole = [], [], [], []
    for _ in range(sizes.rounds):
        since, scripts = here.now(), here.folder()
        with daemon(here, _HELD) as world:
            committed = world.commit(tasks)
            first, last = world.wait_accepted(count, _DEADLINE_S)
            assert keep_scripts(world, scripts) == count
            ours.append(_rate(here.submitted(since)))
            answered.append(count / (last - first))
            whole.append(last - committed)
        plain.append(_loop_by_hand(here, scripts, count))
        _progress(f"{count} unlike tasks: ours {ours[-1]:.1f}/s (with the answers {answered[-1]:.1f}/s), a loop {plain[-1]:.1f}/s")
    words = f"{_span(ours, '/s')}; a loop of sbatch {_span(plain, '/s')}; commit to last answer {_span(whole)}"
    return [
        _row(f"{count:,} unlike tasks, submitted per second, to a loop", _ratios(ours, plain), "x", 0.9, words, least=True),
        _row("  the same from first intent to last answer", _ratios(answered, plain), "x", 0.9, _span(answered, "/s"), least=True),
    ]


def _rate(times: Sequence[float]) -> float:
    """Per second, from the first to the last."""
    return (len(times) - 1) / (max(times) - min(times))


def _loop_by_hand(here: Site, scripts: Path, count: int) -> float:
    """The same calls with the same scripts, one after the other in one shell."""
    options = f"--parsable --partition={HELD} --no-requeue --cpus-per-task=1 --time=60 --open-mode=append --export=ALL --comment=plain"
    since = here.now()
    here.by_hand(f"""cd {scripts}
i=0
while [ $i -lt {count} ]; do
  sbatch {options} --mem=$((64 + i))M --job-name=plain$i --output={scripts}/$i.out {scripts}/$i </dev/null
  i=$((i + 1))
done
""")
    rate = _rate(here.submitted(since))
    here.clear()
    return rate


# One after the other


def _chain(here: Site, sizes: Sizes) -> list[Row]:
    rows = []
    for default in (True, False):
        here.delay_scheduling(default)
        ours, plain = [], []
        for _ in range(sizes.rounds):
            ours.append(_chain_of_ours(here, sizes.chain))
            plain.append(_chain_by_hand(here, sizes.chain))
            _progress(f"a chain of {sizes.chain}: ours {ours[-1]:.2f} s, by hand {plain[-1]:.2f} s")
        words = f"{_span(ours)}; --dependency=afterok {_span(plain)}"
        name = f"a chain of {sizes.chain}, batch_sched_delay {'as it is' if default else '0'}"
        rows.append(_row(name, _ratios(ours, plain), "x", 1.5, words))
    return rows


def _chain_of_ours(here: Site, count: int) -> float:
    tasks = [f'- {{id: t0, command: "true", {_MEMORY}}}']
    tasks += [f'- {{id: t{number}, command: "true", deps: [t{number - 1}], {_MEMORY}}}' for number in range(1, count)]
    with daemon(here) as world:
        return -world.commit("\n".join(tasks)) + world.wait_over(_DEADLINE_S)


def _chain_by_hand(here: Site, count: int) -> float:
    since = here.now()
    began = here.by_hand(f"""cd {here.folder()}
date +%s.%N
id=$(sbatch --parsable --wrap true </dev/null) i=1
while [ $i -lt {count} ]; do id=$(sbatch --parsable --dependency=afterok:$id --wrap true </dev/null) i=$((i + 1)); done
""").split()[0]
    ended = here.wait_completed(since, count, _DEADLINE_S)
    here.clear()
    return ended - float(began)


# Very many


def _many(here: Site, sizes: Sizes) -> list[Row]:
    """In block style, and of each task nothing but what must be: 10,000 tasks just fit into what one file may hold."""
    count = sizes.many
    tasks = "\n".join(f"- id: t{number}\n  command: 'true'" for number in range(count))
    sending, waiting, looks, took = [], [], [], []
    for _ in range(sizes.rounds):
        out = here.folder() / "watched.json"
        with daemon(here, f"{_HELD}  poll: {{min: 2s, max: 5s}}\n", "tests.bench.slurm_watched", str(out)) as world:
            committed = world.commit(tasks)
            _, accepted = world.wait_accepted(count, _DEADLINE_S)
            took.append(accepted - committed)
            time.sleep(sizes.pending_s)  # what is measured is what happens meanwhile
            stopped = time.time()
        found = json.loads(out.read_text())
        late = [each for each in found["late"] if committed <= each[0] <= stopped]
        settled = accepted + 1.0  # the last answers are taken in
        sending.append(_worst(late, committed, settled))
        waiting.append(_worst(late, settled, stopped))
        looks.append(max((length for at, length, full in found["looks"] if full and committed <= at <= stopped), default=0.0))
        _progress(f"{count} tasks: blocked {sending[-1]:.0f} ms, then {waiting[-1]:.0f} ms; a poll {looks[-1]:.2f} s\n{_places(late)}")
    return [
        _row(f"{count:,} tasks: the loop was blocked, while they are sent", sending, "ms", 100, f"commit to last answer {_span(took)}"),
        _row("  the same, while they are pending", waiting, "ms", 100),
        _row("  the longest full poll", looks, "s", 2),
    ]


def _worst(late: Sequence[tuple[float, float, float, str]], since: float, until: float) -> float:
    return max((length for at, length, _, _ in late if since <= at <= until), default=0.0) * 1e3


def _places(late: Sequence[tuple[float, float, float, str]]) -> str:
    """Where the loop was in the longest."""
    longest = sorted(late, key=lambda each: -each[1])[:8]
    return "\n".join(f"    {length * 1e3:5.0f} ms, {used * 1e3:.0f} of them at work: {where}" for _, length, used, where in longest)


def _sizes(words: Sequence[str]) -> Sizes:
    """`equal=100 rounds=1`: all that is not named is 0, but for turns and times."""
    given = {name: int(value) for name, _, value in (word.partition("=") for word in words)}
    kept = {"rounds", "pending_s"}
    return Sizes(**{field.name: given.get(field.name, 0) for field in fields(Sizes) if field.name not in kept or field.name in given})


if __name__ == "__main__":
    calibrations = [calibrate() for _ in range(5)]
    print(table(cases(_sizes(sys.argv[1:])), calibrations))
