"""The loop under trouble of its own: a bug in one run, a run that cannot be made, a disk that is full. A real daemon, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import reconciler.controller
import reconciler.workshop
from reconciler.config import read_settings
from reconciler.core.desired import Run
from reconciler.core.observed import JobState, News
from reconciler.core.plan import Plan, plan
from reconciler.core.record import RunRecord
from reconciler.core.trigger import Owed
from reconciler.daemon import Daemon
from reconciler.errors import LedgerUnwritable
from reconciler.ledger import Batch, Ledger
from reconciler.ledger.read import LedgerReader
from reconciler.manifest.assemble import Desired
from tests.e2e.world import World, workflow

DEADLINE_S = 30.0


def daemon_of(world: World) -> Daemon:
    return Daemon(read_settings(world.folder))


def phases(world: World) -> dict[str, str]:
    with LedgerReader(world.state) as reader:
        return {row.workflow: str(row.phase) for row in reader.runs()}


@asynccontextmanager
async def running(daemon: Daemon) -> AsyncIterator[None]:
    """The daemon runs beside the test, and is stopped as a signal would."""
    task = asyncio.ensure_future(daemon.run(False))
    try:
        yield
    finally:
        daemon.stop("test")
        async with asyncio.timeout(DEADLINE_S):
            await task


async def until(condition: object, what: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # type: ignore[operator]  # a callable
                await asyncio.sleep(0.02)
            return
    raise AssertionError(f"{what} did not come true in {DEADLINE_S} s")


async def test_a_run_whose_plan_raises_keeps_its_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that hits the very cycle in which a job's end is seen loses nothing: the run ends when the bug has passed; others go on."""
    raised: list[str] = []

    def faulty(run: Run, record: RunRecord, news: News, room: Mapping[str, int], now: float) -> Plan:
        if run.workflow == "a" and not raised and any(fact.state is JobState.ENDED for fact in news.facts.values()):
            raised.append(run.id)
            raise RuntimeError("a bug")
        return plan(run, record, news, room, now)

    monkeypatch.setattr(reconciler.controller, "plan", faulty)
    monkeypatch.setattr(reconciler.controller, "BROKEN_RUN_PAUSE_S", 0.3)
    world = World(tmp_path)
    world.write("a.yaml", workflow("a", '- {id: t, command: "true"}'))
    world.write("b.yaml", workflow("b", '- {id: t, command: "true"}'))

    async with running(daemon_of(world)):
        await until(lambda: phases(world) == {"a": "Succeeded", "b": "Succeeded"}, "both runs have ended")

    assert len(raised) == 1


async def test_a_run_that_cannot_be_made_is_said_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--once` ends with 1 and names the workflow whose run could not be made; the others ran."""
    make = reconciler.workshop._make

    def faulty(debt: Owed, desired: Desired, now: float) -> Run:
        if debt.revision.name == "a":
            raise RuntimeError("no such luck")
        return make(debt, desired, now)

    monkeypatch.setattr(reconciler.workshop, "_make", faulty)
    world = World(tmp_path)
    world.write("a.yaml", workflow("a", '- {id: t, command: "true"}'))
    world.write("b.yaml", workflow("b", '- {id: t, command: "true"}'))

    async with asyncio.timeout(DEADLINE_S):
        code = await daemon_of(world).run(True)

    assert (code, phases(world)) == (1, {"b": "Succeeded"})
    assert "a.yaml:1: RuntimeError: no such luck" in capsys.readouterr().err


async def test_a_full_disk_costs_no_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ledger cannot be written there are a handful of cycles, not thousands; then everything goes on."""
    full = [False]
    save = Ledger.save

    def faulty(self: Ledger, batch: Batch) -> None:
        if full[0]:
            raise LedgerUnwritable("no space left")
        save(self, batch)

    monkeypatch.setattr(Ledger, "save", faulty)
    world = World(tmp_path)
    world.write("a.yaml", workflow("a", '- {id: t, command: "sleep 0.5"}'))
    daemon = daemon_of(world)
    async with running(daemon):
        await until(lambda: phases(world) == {"a": "Running"}, "the run is under way")
        full[0] = True
        controller = daemon.controller
        assert controller is not None
        await until(lambda: controller.unwritable, "the disk is seen to be full")
        before = controller.cycles
        await asyncio.sleep(2.5)  # what is measured is what happens in a time in which nothing can
        assert controller.cycles - before < 10
        full[0] = False
        await until(lambda: phases(world) == {"a": "Succeeded"}, "the run has ended")


async def test_a_moved_spool_counts_when_its_jobs_have_ended(tmp_path: Path) -> None:
    """A Backend's `spool` that changes while jobs live there holds for the jobs after them; nothing is lost or run twice."""
    world = World(tmp_path)
    settings = world.folder / "settings.yaml"
    gate, ran = tmp_path / "gate", tmp_path / "ran"
    slow = f'- {{id: t, command: "echo x >> {ran}; until [ -e {gate} ]; do sleep 0.05; done"}}'
    world.write("a.yaml", workflow("a", slow))
    daemon = daemon_of(world)
    async with running(daemon):
        await until(ran.exists, "the job runs")
        settings.write_text(settings.read_text().replace("type: local,", f"type: local, spool: {tmp_path}/elsewhere,"))
        await until(lambda: "spool is another one" in (world.status / "backend" / "local.yaml").read_text(), "the status says so")
        gate.touch()
        await until(lambda: phases(world) == {"a": "Succeeded"}, "the first run has ended")
        controller = daemon.controller
        assert controller is not None
        await until(lambda: not controller.outlooks["local"].later, "the document counts, with nothing else to wake the loop")
        world.write("b.yaml", workflow("b", '- {id: t, command: "true"}'))
        await until(lambda: phases(world) == {"a": "Succeeded", "b": "Succeeded"}, "the second run has ended")
    assert ran.read_text() == "x\n"
    assert list((tmp_path / "elsewhere" / "test" / "runs").glob("*/*.t.1"))


async def test_a_signal_looks_also_within_a_back_off(tmp_path: Path) -> None:
    """A backend that could not be reached is looked at at once when a person asks, not when its back-off ends."""
    world = World(tmp_path)
    daemon = daemon_of(world)
    async with running(daemon):
        await until(lambda: "backend/local" in str(list(world.status.rglob("local.yaml"))), "the backend was seen")
        assert daemon.controller is not None
        outlook = daemon.controller.outlooks["local"]
        outlook._failures, tried = 9, outlook.tried
        outlook.look_now()
        await until(lambda: outlook.tried > tried, "it was looked at")


async def test_a_run_asked_for_by_hand_of_a_suspended_source_is_held_from_its_first_cycle(tmp_path: Path) -> None:
    """It is made, and sends nothing, also when its backend is ready at the very moment in which it is made."""
    world, ran = World(tmp_path), tmp_path / "ran"
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "x.yaml").write_text(workflow("x", f'- {{id: t, command: "echo x >> {ran}"}}', trigger="{on: [manual]}"))
    head = "apiVersion: scripthut/v1\nkind: Source\nmetadata: {name: near}\nspec:\n  suspend: {reason: holidays}\n  include: ['*.yaml']\n"
    world.write("near.yaml", f"{head}  path: {tmp_path}/near\n")
    async with running(daemon_of(world)):
        await until((world.status / "workflow" / "near" / "x.yaml").exists, "the workflow is known")
        await until((world.status / "backend" / "local.yaml").exists, "the backend was seen")
        world.write("ask.yaml", "apiVersion: scripthut/v1\nkind: Run\nmetadata: {name: ask}\nspec: {workflow: near/x}\n")
        await until(lambda: phases(world) == {"near/x": "Waiting"}, "the run is made")
        await asyncio.sleep(0.5)  # it would be sent in the cycle that makes it
    assert not ran.exists()


async def test_an_option_that_changes_counts_while_jobs_live(tmp_path: Path) -> None:
    """A backend that is to be made otherwise is replaced in its place: its jobs are followed to their end, and run once."""
    world = World(tmp_path)
    settings = world.folder / "settings.yaml"
    gate, ran = tmp_path / "gate", tmp_path / "ran"
    slow = f'- {{id: t, command: "echo x >> {ran}; until [ -e {gate} ]; do sleep 0.05; done"}}\n- {{id: u, command: "true", deps: [t]}}'
    world.write("a.yaml", workflow("a", slow))
    daemon = daemon_of(world)
    async with running(daemon):
        await until(ran.exists, "the job runs")
        controller = daemon.controller
        assert controller is not None
        before = controller.outlooks["local"]
        settings.write_text(settings.read_text().replace("type: local,", "type: local, login_shell: true,"))
        await until(lambda: controller.outlooks["local"] is not before, "another was made")
        await until(lambda: controller.outlooks["local"].reachable, "it has taken the place")
        gate.touch()
        await until(lambda: phases(world) == {"a": "Succeeded"}, "the run has ended")
    assert ran.read_text() == "x\n"
