"""What a task asks of Slurm becomes options of sbatch, and what can never be asked is said with its cure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.base import JobRequest
from reconciler.backends.dialect import Ceiling, Site
from reconciler.backends.slurm import Slurm
from reconciler.backends.slurm_options import SCRIPT_MAX, minutes
from reconciler.core.desired import Resources

PLAIN = JobRequest(job="0123456789ab.t.1", run="0123456789ab", task="t", command="true")
SLURM = Slurm(
    partition_map={"standard": "main", "gpu": "a100"}, account="lab", scheduler_args=("--exclusive", "--mail-type", "-s")
)


def asking(**resources: object) -> JobRequest:
    return replace(PLAIN, resources=replace(Resources(), **resources))  # type: ignore[arg-type]  # names and types are the test's


def test_what_nobody_asked_is_left_to_slurm() -> None:
    """Processors, memory, time and no requeue are always said; nothing else."""
    assert Slurm().asked(PLAIN) == ("--cpus-per-task=1", "--mem=4096M", "--time=60", "--no-requeue")


def test_everything_that_a_task_may_ask() -> None:
    """One option each; the task's own further options come last."""
    request = asking(
        cpus=4, memory_mb=512, time_limit_s=90, partition="gpu", gres="gpu:2", account="mine", qos="high", constraint="avx2&ib",
        reservation="r1", licenses="matlab:1", nodes=2, ntasks=8, scheduler_args=("--exclusive", "--mail-type=END"),
    )  # fmt: skip
    assert SLURM.asked(replace(request, requeue=True)) == (
        "--partition=a100", "--account=mine", "--qos=high", "--cpus-per-task=4", "--nodes=2", "--ntasks=8", "--mem=512M", "--time=2",
        "--gres=gpu:2", "--constraint=avx2&ib", "--reservation=r1", "--licenses=matlab:1", "--requeue", "--exclusive", "--mail-type=END",
    )  # fmt: skip
    assert SLURM.trouble(replace(request, requeue=True)) == ""


@pytest.mark.parametrize("default", ["", "fallback"])
@pytest.mark.parametrize(("asked", "mapped"), [("standard", "main"), ("short", ""), ("", "")])
def test_a_partition_is_of_the_map_else_the_default_else_as_written(default: str, asked: str, mapped: str) -> None:
    """The map wins; without a default, a name that it does not have is taken for a real one."""
    slurm = replace(SLURM, default_partition=default)
    partition = mapped or default or asked
    said = [option for option in slurm.asked(asking(partition=asked)) if option.startswith("--partition")]
    assert said == ([f"--partition={partition}"] if partition else [])


def test_the_account_is_the_tasks_or_the_backends() -> None:
    """The task's wins."""
    assert "--account=lab" in SLURM.asked(PLAIN)
    assert "--account=mine" in SLURM.asked(asking(account="mine"))


@pytest.mark.parametrize(("seconds", "expected"), [(1, 1), (60, 1), (61, 2), (3600, 60), (3601, 61)])
def test_a_time_limit_is_whole_minutes_rounded_up(seconds: int, expected: int) -> None:
    """Never less than was asked for, and never 0, which is no limit."""
    assert minutes(seconds) == expected


CEILINGS = {"": Ceiling(3600, 8192), "main": Ceiling(600, 1024), "a100": Ceiling(None, None)}


@pytest.mark.parametrize(
    ("partition", "seconds", "memory"),
    [("standard", 600, 1024), ("", 3600, 8192), ("gpu", 9999, 99999), ("unheard-of", 9999, 99999), ("other,main", 600, 1024)],
)
def test_a_retry_asks_for_no_more_than_its_partition_allows(partition: str, seconds: int, memory: int) -> None:
    """The real partition counts; one that is not known has no ceiling."""
    request = asking(partition=partition, time_limit_s=9999, memory_mb=99999)
    request = replace(request, declared=replace(request.resources, time_limit_s=60, memory_mb=64))
    capped = SLURM.capped(request, Site(ceilings=CEILINGS))
    assert (capped.resources.time_limit_s, capped.resources.memory_mb) == (seconds, memory)


def test_what_a_task_declares_is_asked_for_whatever_the_partition_allows() -> None:
    """Slurm is to refuse it in its own words; only what a retry added is taken back."""
    request = asking(partition="standard", time_limit_s=9999, memory_mb=99999)
    assert SLURM.capped(request, Site(ceilings=CEILINGS)) == request
    declared = replace(request, declared=request.resources)
    assert SLURM.capped(declared, Site(ceilings=CEILINGS)).resources == request.resources


@pytest.mark.parametrize("name", ["partition", "gres", "account", "qos", "constraint", "reservation", "licenses"])
@pytest.mark.parametrize("value", ["a\nb", "a\0", "\x1b[31m", "a\tb", " a", "a "])
def test_a_value_of_more_than_one_line_is_refused_by_its_name(name: str, value: str) -> None:
    """Control characters and blanks at the ends are told with the field that has them."""
    assert SLURM.trouble(asking(**{name: value})).startswith(f"{name} ")


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"time_limit_s": 0}, "time_limit"),
        ({"time_limit_s": 2**31}, "time_limit"),
        ({"memory_mb": 0}, "memory"),
        ({"memory_mb": 2**60}, "memory"),
        ({"cpus": 0}, "cpus"),
        ({"ntasks": 2**31}, "ntasks"),
        ({"nodes": -1}, "nodes"),
    ],
)
def test_a_number_that_slurm_cannot_take_is_refused_by_its_name(resources: dict[str, int], field: str) -> None:
    """Out of what Slurm counts, or 0 where that means everything."""
    assert SLURM.trouble(asking(**resources)).startswith(f"{field} is ")


@pytest.mark.parametrize("argument", ["--exclusive", "--exclusive=user", "--mail-type=END,FAIL", "--mail-type=a b; rm -rf /", "-s"])
def test_an_option_that_the_backend_allows_may_be_used(argument: str) -> None:
    """With any value: it is one word to sbatch."""
    assert SLURM.trouble(asking(scheduler_args=(argument,))) == ""


@pytest.mark.parametrize("argument", ["--nice=5", "--exclusiv", "--mail", "-x", "--mail-type-x"])
def test_an_option_that_the_backend_does_not_allow_is_refused_with_those_it_does(argument: str) -> None:
    """The name counts, whole."""
    trouble = SLURM.trouble(asking(scheduler_args=(argument,)))
    assert trouble.startswith("scheduler_args: this Backend does not allow ") and "only --exclusive, --mail-type, -s" in trouble


@pytest.mark.parametrize(
    "argument",
    ["--output=x", "--out=x", "--o", "--wrap=x", "--array=1-9", "--job-name=x", "--export=NONE", "--wait", "--test-only", "--clusters=x",
     "--chdir=/", "--parsable", "--requeue", "--version", "-W", "-o", "-J", "-M"],
)  # fmt: skip
def test_what_we_say_ourselves_no_backend_can_allow(argument: str) -> None:
    """Also cut short, as sbatch takes it: the job would not be found again, or none would be sent."""
    slurm = Slurm(scheduler_args=(argument.partition("=")[0],))
    assert "is said by the reconciler itself" in slurm.trouble(asking(scheduler_args=(argument,)))


@pytest.mark.parametrize("argument", ["exclusive", "", "--", "--mail-type END", "script.sh", "--exclusive\n--wrap=x", "--mail-type=a\0"])
def test_what_is_no_option_is_refused(argument: str) -> None:
    """A word that sbatch could take for a script or a value."""
    assert "is no option" in Slurm(scheduler_args=(argument,)).trouble(asking(scheduler_args=(argument,)))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (replace(PLAIN, command="a\r\nb"), "command has Windows line ends"),
        (replace(PLAIN, init="a\r\n"), "init has Windows line ends"),
        (replace(PLAIN, env=(("A", "x\r\ny"),)), "the value of A in env has Windows line ends"),
        (replace(PLAIN, command="a\0"), "command holds a NUL character"),
        (replace(PLAIN, image="debian:12"), "image: "),
        (replace(PLAIN, command="x" * SCRIPT_MAX), "command, init and env are "),
    ],
)
def test_a_script_that_slurm_would_not_take_is_refused_before_it_is_sent(request_: JobRequest, words: str) -> None:
    """With the task's field and the cure; a carriage return alone is no harm."""
    assert SLURM.trouble(request_).startswith(words)
    assert SLURM.trouble(replace(PLAIN, command="printf 'a\\r'\rtrue")) == ""


@given(st.text(), st.lists(st.text(), max_size=3))
def test_whatever_is_asked_every_option_is_one_word_with_our_name_for_it(value: str, arguments: list[str]) -> None:
    """What has no trouble begins with `--`; nothing a user writes is an option by itself."""
    request = asking(partition=value, gres=value, constraint=value, scheduler_args=tuple(arguments))
    if SLURM.trouble(request):
        return
    own = SLURM.asked(request)[: -len(arguments) or None]
    assert all(option.partition("=")[0] in {
        "--partition", "--account", "--cpus-per-task", "--mem", "--time", "--gres", "--constraint", "--no-requeue"
    } for option in own)  # fmt: skip
    assert all(argument.partition("=")[0] in SLURM.scheduler_args for argument in arguments)
