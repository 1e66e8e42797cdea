"""One backend as the controller sees it: a small scripted backend that does what real ones do, at chosen moments."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from reconciler.backends.base import CancelRequest, FileRange, FileRequest, JobRequest
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import BackendSpec, Place
from reconciler.core.names import job_name
from reconciler.core.observed import Answer, Expected, JobFact, JobState, Receipt, Snapshot
from reconciler.errors import NotOwner, StateLost, Unreachable
from reconciler.outlook import Outlook

DEADLINE_S = 10.0
FAR: dict[str, object] = {
    "host": "",
    "ssh": {"host": "hpc.example.org", "port": None, "user": "ada", "jump": "", "key_path": "~/.ssh/a"},
    "spool": "~/.reconciler",
    "account": "lab",
}
SPEC = BackendSpec("far", "slurm", Place("", "b.yaml", 1), 4, 1.0, options=FAR)
JOB = job_name("a" * 12, "t", 1)


class Scripted:
    """A backend whose looks are what `script` says of the moment; submissions wait for `gate`."""

    def __init__(self, script: Callable[[float], Snapshot]) -> None:
        self.script = script
        self.gate = asyncio.Event()
        self.looked: list[float] = []
        self.sent: list[str] = []

    async def look(self, expected: Mapping[str, Expected]) -> Snapshot:
        self.looked.append(monotonic())
        return self.script(utc_now())

    async def submit(self, jobs: Sequence[JobRequest]) -> Sequence[Receipt]:
        await self.gate.wait()
        self.sent += [job.job for job in jobs]
        return [Receipt(job.job, Answer.ACCEPTED, utc_now(), "7") for job in jobs]

    async def cancel(self, jobs: Sequence[CancelRequest]) -> Sequence[Receipt]:
        return [Receipt(job.job, Answer.FENCED, utc_now()) for job in jobs]

    async def fetch(self, request: FileRequest) -> FileRange:
        return FileRange(b"")

    async def forget(self, jobs: Sequence[str]) -> None:
        return


Step = Callable[[], Awaitable[None]]


def outlook_of(backend: Scripted, poll_s: float = 0.02, take: Step | None = None, release: Step | None = None) -> Outlook:
    """An outlook on `backend` that looks already."""
    outlook = Outlook(SPEC, backend, poll_s, lambda: None, take, release)
    outlook.start()
    return outlook


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for it; fail after ten seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)
            return
    raise AssertionError(f"{what} did not come true in {DEADLINE_S} s")


def plain(began_at: float) -> Snapshot:
    return Snapshot("far", began_at)


def expected(job: str) -> Expected:
    return Expected(job, "", utc_now())


async def test_the_backend_says_when_to_look_again() -> None:
    """What a look asks for counts instead of the interval of the Settings, in both directions."""
    busy = outlook_of(quick := Scripted(lambda at: Snapshot("far", at, again_s=0.02)), poll_s=600.0)
    quiet = outlook_of(slow := Scripted(lambda at: Snapshot("far", at, again_s=600.0)), poll_s=0.02)
    try:
        await until(lambda: len(quick.looked) > 3, "it was looked at again soon")
        assert len(slow.looked) == 1
        quiet.look_soon()
        await until(lambda: len(slow.looked) == 2, "something is known to have changed, so it was looked at")
    finally:
        await busy.close()
        await quiet.close()


async def test_a_backend_that_asks_for_nothing_but_looks_keeps_nobody_busy() -> None:
    """An interval of zero is not a loop without a breath."""
    outlook = outlook_of(eager := Scripted(lambda at: Snapshot("far", at, again_s=0.0)))
    try:
        await until(lambda: len(eager.looked) > 4, "it was looked at a few times")
        assert eager.looked[4] - eager.looked[0] > 0.03
    finally:
        await outlook.close()


async def test_what_a_look_says_beside_its_facts_is_handed_on() -> None:
    """Forgotten jobs reach the plan; what is good to know reaches people."""
    about = {"scheduler": "Slurm 22.05.8", "calls_last_hour": 7}
    outlook = outlook_of(Scripted(lambda at: Snapshot("far", at, forgotten=frozenset({JOB}), about=about)))
    try:
        assert outlook.about == {}
        await until(lambda: outlook.looks, "it was looked at")
        assert (outlook.view(utc_now()).forgotten, outlook.about) == (frozenset({JOB}), about)
    finally:
        await outlook.close()


async def test_facts_count_while_a_part_cannot_be_asked() -> None:
    """A scheduler that is down makes its backend unreachable, and what its mailbox shows is news all the same; then it is well again."""
    facts = {JOB: JobFact(JobState.ENDED, exit_code=0)}
    words = ["the scheduler does not answer"]
    backend = Scripted(lambda at: Snapshot("far", at, facts, complete=False, problem=words[0]))
    outlook = outlook_of(backend)
    try:
        await until(lambda: outlook.looks, "it was looked at")
        view = outlook.view(utc_now())
        assert (view.reachable, view.reason, view.complete) == (False, words[0], False)
        assert outlook.news() == (facts, [])
        words[0] = ""
        outlook.look_now()
        await until(lambda: outlook.reachable, "it is well again")
    finally:
        await outlook.close()


async def test_looks_go_on_while_a_submission_takes_long() -> None:
    """A submission of minutes holds up neither the looks nor another submission, and what is being sent is not called absent."""
    backend = Scripted(plain)
    outlook = outlook_of(backend)
    try:
        await until(lambda: outlook.looks, "it was looked at")
        outlook.expect(JOB, expected(JOB))
        outlook.submit([JobRequest(JOB, "a" * 12, "t", "true")])
        before = outlook.looks
        await until(lambda: outlook.looks > before + 2, "looks went on")
        assert (outlook.news()[1], backend.sent, outlook.receipts) == ([], [], [])
        outlook.cancel([CancelRequest("b" * 12 + ".t.1", "", False)])
        await until(lambda: len(outlook.receipts) == 1, "the cancel came back meanwhile")
        backend.gate.set()
        await until(lambda: len(outlook.receipts) == 2, "the submission came back")
        outlook.look_now()
        await until(lambda: outlook.news()[1] == [JOB], "nothing shows it, and it is not under way any more")
    finally:
        await outlook.close()


@pytest.mark.parametrize(
    ("error", "unowned", "lost"),
    [(Unreachable("no route"), False, False), (NotOwner("another's"), True, False), (StateLost("newer"), False, True)],
)
async def test_taking_a_backend_may_fail_in_three_ways(error: Exception, unowned: bool, lost: bool) -> None:
    """Unreachable is tried again, another's is said to be so, and a newer ledger's stops the daemon; nothing is looked at before."""
    failures = [error]

    async def take() -> None:
        if failures:
            raise failures[0]

    outlook = outlook_of(backend := Scripted(plain), take=take)
    try:
        await until(lambda: outlook.tried, "it was tried")
        assert (outlook.unowned, outlook.lost is not None, backend.looked) == (unowned, lost, [])
        assert outlook.view(utc_now()).reason == str(error)
        failures.clear()
        outlook.look_now()
        await until(lambda: outlook.reachable, "it was taken")
        assert not outlook.unowned
    finally:
        await outlook.close()


async def test_a_connection_that_cannot_be_closed_holds_nothing_up() -> None:
    """The end of the daemon does not wait for a far side that does not answer, whether it was being looked at or is to be let go."""
    never = asyncio.Event()

    async def hang() -> None:
        await never.wait()

    outlook = outlook_of(Scripted(plain), take=hang, release=hang)
    began = monotonic()
    await asyncio.sleep(0)
    await outlook.close()
    assert monotonic() - began < 4.0


ELSEWHERE = {
    "type": replace(SPEC, type="pbs"),
    "spool": replace(SPEC, options={**FAR, "spool": "/scratch/r"}),
    "host": replace(SPEC, options={**FAR, "host": "local"}),
    **{
        f"ssh.{key}": replace(SPEC, options={**FAR, "ssh": {**FAR["ssh"], key: value}})  # type: ignore[dict-item]  # a mapping, as above
        for key, value in (("host", "other"), ("port", 2222), ("user", "eve"), ("jump", "gate"))
    },
}
OTHERWISE = {
    "key": replace(SPEC, options={**FAR, "ssh": {**FAR["ssh"], "key_path": "~/.ssh/b"}}),  # type: ignore[dict-item]  # as above
    "account": replace(SPEC, options={**FAR, "account": "other"}),
}


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_another_place_waits_for_the_jobs_of_this_one(name: str) -> None:
    """A document that says where jobs are in other words counts when none lives in the old place; what else it says counts at once."""
    spec = replace(ELSEWHERE[name], max_concurrent=9)
    outlook = outlook_of(Scripted(plain))
    try:
        assert not outlook.suits(spec)
        await until(lambda: outlook.looks, "it was looked at")
        outlook.expect(JOB, expected(JOB))
        assert not outlook.yields_to(spec)
        outlook.wait_for(spec)
        words = f"its {name} is another one now; that counts when its 1 jobs have ended"
        assert (outlook.later, outlook.view(utc_now()).accepts) == (words, True)
        assert (outlook.spec.options, outlook.spec.type, outlook.spec.max_concurrent) == (FAR, "slurm", 9)
        outlook.drop([JOB])
        assert outlook.yields_to(spec)
    finally:
        await outlook.close()


@pytest.mark.parametrize("name", OTHERWISE)
async def test_other_options_wait_for_what_is_under_way(name: str) -> None:
    """A key or an account that changes counts as soon as what is being sent has been answered and saved; live jobs do not matter."""
    spec = OTHERWISE[name]
    outlook = outlook_of(backend := Scripted(plain))
    try:
        await until(lambda: outlook.looks, "it was looked at")
        outlook.expect(JOB, expected(JOB))
        assert (outlook.suits(spec), outlook.yields_to(spec)) == (False, True)
        outlook.submit([JobRequest(JOB, "a" * 12, "t", "true")])
        assert not outlook.yields_to(spec)
        outlook.wait_for(spec)
        assert not outlook.view(utc_now()).accepts  # or there would always be something under way
        backend.gate.set()
        await until(lambda: outlook.receipts, "it was answered")
        assert not outlook.yields_to(spec)  # the answer is not saved yet
        outlook.receipts.clear()
        await until(lambda: outlook.yields_to(spec), "nothing is under way")
        outlook.follow(SPEC)
        assert (outlook.suits(SPEC), outlook.later, outlook.view(utc_now()).accepts) == (True, "", True)
    finally:
        await outlook.close()
