"""Which ended jobs the accounting is asked about, and when."""

from __future__ import annotations

from reconciler.backends.accounts import Accounts, Rhythm
from reconciler.backends.dialect import Row
from reconciler.core.observed import JobState, Usage

RHYTHM = Rhythm(first_s=5.0, between_s=10.0, silent_max_s=60.0)
USED = Usage(1.0, 2.0, 3.0)


def row(job_id: str, state: JobState = JobState.ENDED, usage: Usage | None = USED) -> Row:
    return Row(job_id, "t", state, "X", usage=usage)


def owing(*jobs: str, at: float = 0.0) -> Accounts:
    accounts = Accounts(RHYTHM)
    for job in jobs:
        accounts.owe(job, f"id-{job}", at)
    return accounts


def test_jobs_are_asked_about_together_and_told_once() -> None:
    """Not at once after their end, then all that are due in one question; what was learned is told once."""
    accounts = owing("a", "b")
    assert accounts.due(4.9) == {}
    assert accounts.due(5.0) == {"a": "id-a", "b": "id-b"}
    accounts.learn(accounts.due(5.0), {"id-a": row("id-a"), "id-b": row("id-b")}, 6.0)
    assert (accounts.taken(), accounts.taken(), accounts.due(1000.0)) == ({"a": USED, "b": USED}, {}, {})


def test_a_question_is_of_so_many_at_most() -> None:
    """Of very many ended jobs the rest is asked about after a pause."""
    accounts = owing(*(str(number) for number in range(700)))
    first = accounts.due(5.0)
    accounts.learn(first, {job_id: row(job_id) for job_id in first.values()}, 5.0)
    assert (len(first), accounts.due(14.9), len(accounts.due(15.0))) == (500, {}, 200)


def test_what_is_not_there_yet_is_asked_for_again_but_not_for_ever() -> None:
    """A job that the accounting does not know, or not as ended, is asked about ever more rarely, and then given up."""
    for answer in ({}, {"id-a": row("id-a", JobState.RUNNING)}, {"id-a": row("id-a", usage=None)}):
        accounts, now, asked = owing("a"), 0.0, []
        while now < 1000.0:
            if due := accounts.due(now):
                asked.append(now)
                accounts.learn(due, answer, now)
            now += 1.0
        assert (asked, accounts.taken()) == ([5.0, 25.0, 65.0, 145.0], {})


def test_while_nobody_answers_nothing_is_given_up() -> None:
    """A database that is down is asked ever more rarely, up to a limit; the jobs lose no try, and are told when it is back."""
    accounts, now, asked = owing("a"), 0.0, []
    while now < 300.0:
        if accounts.due(now):
            asked.append(now)
            accounts.silent(now)
        now += 1.0
    assert asked == [5.0, 15.0, 35.0, 75.0, 135.0, 195.0, 255.0]
    accounts.learn(accounts.due(315.0), {"id-a": row("id-a")}, 315.0)
    assert accounts.taken() == {"a": USED}


def test_a_job_that_is_owed_no_more_when_the_answer_comes() -> None:
    """An answer about jobs that were let go meanwhile tells nothing of them."""
    accounts = owing("a")
    accounts.learn({"b": "id-b"}, {"id-b": row("id-b")}, 6.0)
    assert (accounts.taken(), accounts.due(1000.0)) == ({}, {"a": "id-a"})
