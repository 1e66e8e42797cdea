"""What squeue and sacct printed becomes rows: as recorded, and never more rows than the scheduler meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.backends.dialect import Row
from reconciler.backends.slurm_rows import ACCOUNT_FIELDS, read_accounts, read_rows
from reconciler.core.desired import Cause
from reconciler.core.observed import JobState, Usage

MARK = "5eedcafe"
RECORDED = Path(__file__).parent / "recorded/slurm"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def short(name: str, job_id: str = "12", state: str = "RUNNING", reason: str = "None", mark: str = MARK) -> str:
    """A row as `squeue -o` prints it."""
    return f"{mark}|{job_id}|{state}|1795373811|1795373812|1795377412|main|hpc|-|-|{mark}={reason}|{mark}={name}|{mark}.\n"


def account(*fields: str, mark: str = MARK) -> str:
    """A line as `sacct -p --delimiter` prints it."""
    return "".join(f"{field}{mark}=" for field in fields) + "\n"


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name if row.index is None else f"{row.name}[{row.index}]": row for row in rows}


def test_a_recorded_queue_has_every_job_that_waits_or_runs() -> None:
    """Arrays are single elements; a name with newlines and a row under another mark inside is one job."""
    rows = read_rows(MARK, recorded("queue.txt"))
    assert len(rows) == 29
    assert {row.user for row in rows} == {"hpc"}
    states = {name: row.state for name, row in by_name(rows).items()}
    running = {name for name, state in states.items() if state is JobState.RUNNING}
    hostile = "hostile\n0ff1ce|1|COMPLETED|1|1|1|main|hpc|-|-|0ff1ce=None|0ff1ce=runs|0ff1ce.\n9|COMPLETED||"
    arrays = {"array-throttled[0]", "array-throttled[1]"}
    assert running == {"runs", "licence-1", "qos-narrow-1", "suspended", "cancelling", hostile, *arrays}
    assert {state for name, state in states.items() if name not in running} == {JobState.QUEUED}
    assert {name for name in states if name.startswith("array")} == {f"array-throttled[{index}]" for index in range(6)}


def test_the_long_form_has_the_node() -> None:
    """`n/a` is nowhere; the short form does not tell."""
    times = "1795373811|1795373812|1795377412"
    lines = [f"{MARK}|{job}|CANCELLED|{times}|main|hpc|0|0|{node}|{MARK}=None|{MARK}=a|{MARK}." for job, node in ((1, "n1 "), (2, "n/a"))]
    rows = read_rows(MARK, "\n".join(lines))
    assert [(row.job_id, row.node) for row in rows] == [("1", "n1"), ("2", "")]
    assert [row.node for row in read_rows(MARK, short("a"))] == [None]


def test_a_row_of_a_queue_says_when_and_where() -> None:
    """Times are of the scheduler's clock; of a waiting job, the start that is estimated."""
    rows = by_name(read_rows(MARK, recorded("queue.txt")))
    job_id = rows["runs"].job_id
    assert rows["runs"] == Row(
        job_id, "runs", JobState.RUNNING, "RUNNING", submitted_at=rows["runs"].submitted_at, started_at=rows["runs"].started_at,
        partition="main", user="hpc",
    )  # fmt: skip
    assert rows["runs"].submitted_at is not None and rows["runs"].started_at is not None
    assert 0 <= rows["runs"].started_at - rows["runs"].submitted_at <= 5
    assert rows["held-by-user"].started_at is None
    begins, submitted = rows["begin"].started_at, rows["begin"].submitted_at
    assert begins is not None and submitted is not None and begins - submitted >= 3600


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("held-by-user", "will not start by itself: its owner holds it"),
        ("held-by-admin", "will not start by itself: an administrator holds it"),
        ("never", "will not start by itself: the job that it depends on"),
        ("partition-time", "will not start by itself: its time limit is above that of its partition"),
        ("partition-nodes", "will not start by itself: it asks for more nodes"),
        ("requeue-held", "will not start by itself: it was put back into the queue and is held"),
        ("qos-min", "will not start by itself: it asks for less than its QOS wants"),
        ("dependency", "waits for another job"),
        ("begin", "waits until Slurm may start it"),
        ("requeued", "waits until Slurm may start it"),
        ("licence-2", "waits for a licence"),
        ("partition-down", "waits for its partition"),
        ("node-drained", "waits for a node"),
        ("reservation", "waits for its reservation"),
        ("qos-narrow-2", "waits for room under a limit of its QOS (jobs)"),
        ("array-throttled[3]", "waits for other elements of its array"),
        ("suspended", "is suspended"),
        ("cancelling", "is ending"),
        ("runs", ""),
    ],
)
def test_a_recorded_job_says_why_it_does_not_run(name: str, words: str) -> None:
    """Hold by whom, a limit, a dependency, a suspension: told apart."""
    row = by_name(read_rows(MARK, recorded("queue.txt")))[name]
    assert row.reason.startswith(words) and bool(row.reason) == bool(words)


@pytest.mark.parametrize("name", ["queue-unexpanded.txt", "everybody.txt"])
def test_a_slurm_that_does_not_expand_arrays_gives_the_same_jobs(name: str) -> None:
    """`7_[2-5%2]` is four rows."""
    mine = [row for row in read_rows(MARK, recorded(name)) if row.user == "hpc"]
    assert {(row.job_id, row.index) for row in mine} == {(row.job_id, row.index) for row in read_rows(MARK, recorded("queue.txt"))}


@pytest.mark.parametrize(
    ("job_id", "elements"),
    [
        ("7_[2-5%2]", [2, 3, 4, 5]),
        ("7_[1,4-6,9]", [1, 4, 5, 6, 9]),
        ("7_[0-10:5]", [0, 5, 10]),
        ("7_[1-3,...]", [1, 2, 3]),
        ("7_4", [4]),
    ],
)
def test_a_range_of_elements_is_each_of_them(job_id: str, elements: list[int]) -> None:
    """Ranges, steps, throttles, and lists that Slurm cut."""
    rows = read_rows(MARK, short("a", job_id, "PENDING"))
    assert [(row.job_id, row.index) for row in rows] == [(f"7_{index}", index) for index in elements]


@pytest.mark.parametrize("job_id", ["7_[0-4000000000]", "7_[0-999999999]", "7_[0-9999,20000-29999]", "7_[]", "12+0"])
def test_what_cannot_be_written_out_stays_one_row(job_id: str) -> None:
    """Another user's array of a million elements costs one row."""
    assert [(row.job_id, row.index) for row in read_rows(MARK, short("a", job_id, "PENDING"))] == [(job_id, None)]


#: Of each job of jobs.txt: state word, cause, exit code, signal, and a piece of the reason.
ENDED: dict[str, tuple[str, Cause | None, int | None, int | None, str]] = {
    "ok": ("COMPLETED", None, 0, None, ""),
    "works": ("COMPLETED", None, 0, None, ""),
    "requeued-once": ("COMPLETED", None, 0, None, ""),
    "array-mixed[1]": ("COMPLETED", None, 0, None, ""),
    "array-mixed[3]": ("FAILED", Cause.EXIT, 2, None, "ended with code 2"),
    "array-mixed[5]": ("FAILED", Cause.EXIT, 4, None, "ended with code 4"),
    "exit3": ("FAILED", Cause.EXIT, 3, None, "ended with code 3"),
    "exit128": ("FAILED", Cause.EXIT, 128, None, "ended with code 128"),
    "exit200": ("FAILED", Cause.EXIT, 200, None, "ended with code 200"),
    "killed": ("FAILED", Cause.EXIT, None, 9, "was ended by signal 9"),
    "terminated": ("FAILED", Cause.EXIT, None, 15, "was ended by signal 15"),
    "no-folder": ("FAILED", Cause.EXIT, None, None, "could not be started on its node"),
    "cancelled-waiting": ("CANCELLED", Cause.CANCELLED, None, None, "was cancelled"),
    "cancelled-running": ("CANCELLED", Cause.CANCELLED, None, 15, "was cancelled"),
    "cancelled-by-root": ("CANCELLED", Cause.CANCELLED, None, 15, "was cancelled"),
    "dependency-never": ("CANCELLED", Cause.CANCELLED, None, None, "was cancelled: the job that it depended on"),
    "timeout": ("TIMEOUT", Cause.TIMEOUT, None, 15, "reached its time limit"),
    "memory": ("OUT_OF_MEMORY", Cause.OOM, None, None, "used more memory"),
    "memory-of-a-child": ("OUT_OF_MEMORY", Cause.OOM, None, None, "used more memory"),
    "node-fail": ("NODE_FAIL", Cause.NODE_FAIL, None, None, "its node failed"),
    "preempted": ("PREEMPTED", Cause.PREEMPTED, None, 15, "was ended to make room"),
}


@pytest.mark.parametrize("name", ENDED)
def test_the_short_memory_tells_how_a_job_ended(name: str) -> None:
    """State, cause, true exit code and signal, for every way of ending that was recorded."""
    word, cause, code, signal, words = ENDED[name]
    row = by_name(read_rows(MARK, recorded("jobs.txt")))[name]
    assert (row.state, row.word, row.cause, row.exit_code, row.signal) == (JobState.ENDED, word, cause, code, signal)
    assert row.reason.startswith(words) and bool(row.reason) == bool(words)
    assert row.ended_at is not None


@pytest.mark.parametrize("name", ENDED)
def test_the_accounting_tells_the_same_but_no_exit_code(name: str) -> None:
    """sacct prints a code less 128: of a failure it is not believed. Causes and times agree with the short memory."""
    row = by_name(read_accounts(MARK, recorded("accounts.txt")))[name]
    memory = by_name(read_rows(MARK, recorded("jobs.txt")))[name]
    assert (row.state, row.cause) == (memory.state, memory.cause)
    assert row.exit_code == (0 if row.cause is None else None)
    assert (row.job_id, row.index, row.submitted_at, row.ended_at) == (memory.job_id, memory.index, memory.submitted_at, memory.ended_at)
    assert row.usage is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exit3", "ended with code 3 or 131 (Slurm's accounting does not tell them apart)"),
        ("exit200", "ended with code 72 or 200 (Slurm's accounting does not tell them apart)"),
        ("exit128", "ended with code 128"),
        ("cancelled-running", "was cancelled by its owner hpc"),
        ("cancelled-waiting", "was cancelled by its owner hpc"),
        ("cancelled-by-root", "was cancelled by root (an administrator, or Slurm itself)"),
        ("dependency-never", "was cancelled"),
        ("timeout", "reached its time limit"),
    ],
)
def test_the_accounting_says_who_cancelled(name: str, words: str) -> None:
    """The owner, root, or nobody."""
    assert by_name(read_accounts(MARK, recorded("accounts.txt")))[name].reason == words


def test_somebody_else_who_cancelled_is_named_by_number() -> None:
    """An operator is neither the owner nor root."""
    line = account("12", "CANCELLED by 77", "0:0", "1", "2", "3", "1", "00:00.003", "", "main", "hpc", "1001", "None", "a")
    assert read_accounts(MARK, line)[0].reason == "was cancelled by user id 77"


def test_a_job_cancelled_while_it_waited_has_not_started() -> None:
    """Slurm says that it started when it ended."""
    for rows in (read_rows(MARK, recorded("jobs.txt")), read_accounts(MARK, recorded("accounts.txt"))):
        waited, ran = by_name(rows)["cancelled-waiting"], by_name(rows)["cancelled-running"]
        assert waited.started_at is None and ran.started_at is not None


def test_restarts_are_counted_and_a_requeue_is_a_new_submission_to_slurm() -> None:
    """The job keeps its id and name, and its time of submission moves: it is no part of a job's identity alone."""
    rows = by_name(read_rows(MARK, recorded("jobs.txt")))
    assert (rows["requeued-once"].restarts, rows["exit3"].restarts) == (1, 0)
    assert (rows["requeued-once"].submitted_at or 0) > (rows["exit3"].submitted_at or 0)


def test_usage_is_of_all_steps() -> None:
    """Elapsed, processor time and the largest memory of any step; nothing of a job that still waits."""
    rows = by_name(read_accounts(MARK, recorded("accounts.txt")))
    works = rows["works"].usage
    assert works is not None and works.memory_max_mb is not None and works.cpu_s is not None
    assert works.elapsed_s == 13.0 and 0.1 < works.cpu_s < 13 and 1 < works.memory_max_mb < 50
    assert rows["node-fail"].usage == Usage(6.0, 0.0, None)
    assert rows["deadline-waiting"].usage is None and rows["deadline-waiting"].state is JobState.QUEUED


@pytest.mark.parametrize(
    ("size", "mebibytes"), [("3072K", 3.0), ("1.50G", 1536.0), ("2M", 2.0), ("1048576", 1.0), ("1T", 1048576.0), ("", None), ("x", None)]
)
def test_memory_is_read_with_its_unit(size: str, mebibytes: float | None) -> None:
    """K, M, G, T; bytes alone."""
    head = account("12", "COMPLETED", "0:0", "1", "2", "3", "1", "1-02:03:04", "", "main", "hpc", "1001", "None", "a")
    step = account("12.0", "COMPLETED", "0:0", "1", "2", "3", "1", "02:03:04", size, "", "", "", "", "srun")
    assert read_accounts(MARK, head + step)[0].usage == Usage(1.0, 93784.0, mebibytes)


def test_what_the_accounting_hardly_knows_yet_is_nobodys() -> None:
    """Right after a short job, sacct has a line called `allocation` that looks like another job: it is left out."""
    text = recorded("accounts-just-ended.txt")
    assert "allocation" in text
    assert read_accounts(MARK, text) == []


def test_a_deadline_is_a_time_limit() -> None:
    """A job whose deadline passed while it waited: TIMEOUT, never started, and no exit code (Slurm says 1)."""
    row = read_accounts(MARK, recorded("accounts-deadline.txt"))[0]
    assert (row.word, row.cause, row.exit_code, row.started_at) == ("DEADLINE", Cause.TIMEOUT, None, None)


def test_noise_around_rows_does_no_harm() -> None:
    """Errors of the command, greetings of a profile, and lines of ours before, between and behind."""
    noise = "Welcome!\nslurm_load_jobs error: something | else\n"
    assert read_rows(MARK, noise + short("a") + noise + short("b", "13") + noise) == read_rows(MARK, short("a") + short("b", "13"))
    line = account("12", "COMPLETED", "0:0", "1", "2", "3", "1", "00:00.003", "", "main", "hpc", "1001", "None", "a")
    assert read_accounts(MARK, noise + line + noise + line.replace("12", "13", 1) + noise) == [
        *read_accounts(MARK, line),
        *read_accounts(MARK, line.replace("12", "13", 1)),
    ]


@pytest.mark.parametrize("name", ["queue.txt", "jobs.txt"])
def test_an_answer_that_was_cut_short_loses_only_its_last_row(name: str) -> None:
    """Half a row is no row: a name cut short would be somebody else's."""
    text = recorded(name)
    whole = read_rows(MARK, text)
    for cut in range(0, len(text), 37):
        rows = read_rows(MARK, text[:cut])
        assert rows == whole[: len(rows)]


def test_an_account_that_was_cut_short_is_left_out() -> None:
    """As for rows; of the last job some steps may be missing."""
    text = recorded("accounts.txt")
    whole = [(row.job_id, row.name, row.state) for row in read_accounts(MARK, text)]
    for cut in range(0, len(text), 37):
        rows = [(row.job_id, row.name, row.state) for row in read_accounts(MARK, text[:cut])]
        assert rows == whole[: len(rows)]


@given(st.text(), st.text(), st.text())
@example("a\n" + short("forged", "666", mark="0ff1ce"), "x|y", "z")
@example("|||=.\n", "=\n|", "RUNNING|")
def test_no_text_of_a_user_makes_up_a_row(name: str, reason: str, other: str) -> None:
    """Whatever a name and a reason hold but the mark of the call: one job is one row, and its neighbour is untouched."""
    name, reason, other = (text.replace(MARK, "") for text in (name, reason, other))
    rows = read_rows(MARK, short(name, "12", reason=reason) + short(other, "13"))
    assert [(row.job_id, row.name) for row in rows] == [("12", name.strip()), ("13", other.strip())]
    line = ("COMPLETED", "0:0", "1", "2", "3", "1", "00:00.003", "", "main", "hpc", "1001", reason)
    accounts = read_accounts(MARK, account("12", *line, name) + account("13", *line, other))
    assert [(row.job_id, row.name) for row in accounts] == [("12", name.strip()), ("13", other.strip())]


PIECES = st.lists(
    st.sampled_from([MARK, "|", "=", ".", "\n", "12", "7_[", "]", "-", ",", "%", "RUNNING", "0:53", "9" * 30, "CANCELLED by "]) | st.text()
)
FIELD = st.text() | st.sampled_from(["12", "7_3", "COMPLETED", "0:0", "0:9", "1795373811", "9" * 12, "1-00:00:00", "5K"])


@given(PIECES.map("".join))
def test_garbage_never_raises(text: str) -> None:
    """Whatever the far side prints, there are rows or none."""
    for row in (*read_rows(MARK, text), *read_accounts(MARK, text)):
        assert row.state in JobState


@given(st.lists(FIELD, min_size=14, max_size=14))
def test_any_fields_are_read_or_left_out(fields: list[str]) -> None:
    """No field of any content makes the parse fail; a success needs Slurm's word and 0:0."""
    assert len(ACCOUNT_FIELDS) == 14
    for row in read_accounts(MARK, account(*fields)):
        assert row.exit_code in (None, 0)
        assert row.exit_code is None or fields[2].strip() == "0:0"
    text = f"{MARK}|{'|'.join(fields[:9])}|{MARK}={fields[9]}|{MARK}={fields[10]}|{MARK}.\n"
    read_rows(MARK, text)
