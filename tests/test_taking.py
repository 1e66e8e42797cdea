"""Making a backend's place ours: real spools on disk, and a real ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.backends.marks import Owner
from reconciler.config import read_settings
from reconciler.core.desired import BackendSpec, Place
from reconciler.errors import NotOwner, StateLost, Unreachable
from reconciler.ledger import Ledger
from reconciler.places import Places, Station, nobody_told
from reconciler.sources.watch import Watcher
from reconciler.taking import Takings
from tests.e2e.world import World


class Desk:
    """The places of one daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        settings = read_settings(World(root).folder)
        self.ledger = Ledger.open(settings.state_dir, settings.instance)
        self.watcher = Watcher()
        self.places = Places(settings, self.watcher, root / "mirrors")
        self.takings = Takings(self.ledger)

    def close(self) -> None:
        self.watcher.close()
        self.ledger.close()

    def station(self, name: str, spool: str, epoch: int = 0) -> Station:
        spec = BackendSpec(name, "local", Place("", "b.yaml", 1), 1, 1.0, options={"spool": str(self.root / spool)})
        return self.places.backend(spec, Owner(self.ledger.id, epoch or self.ledger.epoch), nobody_told)

    async def holder(self, station: Station) -> tuple[str, int] | None:
        held = await station.owner_there()
        return (held.ledger_id, held.epoch) if held else None


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


async def test_a_backend_that_is_made_anew_takes_its_place_again(desk: Desk) -> None:
    """Our own word there is no other's, whether another backend was there in between or not."""
    for _ in range(2):
        for spool in ("a", "b"):
            station = desk.station("x", spool)
            await desk.takings.take(station, 0)
            assert await desk.holder(station) == (desk.ledger.id, desk.ledger.epoch)
            desk.takings.let_go(station)


async def test_a_lost_answer_is_not_a_lost_ledger(desk: Desk) -> None:
    """When the place was taken and the answer was lost, the next try takes it."""
    station = desk.station("x", "a")

    async def cut() -> None:
        await station.own()
        raise Unreachable("the connection broke")

    with pytest.raises(Unreachable):
        await desk.takings.take(replace(station, own=cut), 0)
    await desk.takings.take(station, 0)


async def test_two_backends_do_not_share_a_place(desk: Desk) -> None:
    """The second is told whose it is, and nothing is done there; it gets it when the first has let it go."""
    first, second = desk.station("x", "a"), desk.station("y", "a")
    await desk.takings.take(first, 0)
    with pytest.raises(NotOwner, match="is the spool of Backend x already; give each a spool of its own"):
        await desk.takings.take(second, 0)
    desk.takings.let_go(second)
    with pytest.raises(NotOwner):
        await desk.takings.take(second, 0)
    desk.takings.let_go(first)
    await desk.takings.take(second, 0)


async def test_one_place_by_two_names_stops_only_its_backend(desk: Desk) -> None:
    """A place that we hold already under another name is told, and does not make the ledger an old copy."""
    await desk.takings.take(desk.station("x", "a"), 0)
    (desk.root / "b").symlink_to(desk.root / "a")
    with pytest.raises(NotOwner, match="was taken by this daemon under another name"):
        await desk.takings.take(desk.station("y", "b"), 0)


@pytest.mark.parametrize("ahead", [0, 1])
async def test_a_copy_of_the_ledger_is_found_out(desk: Desk, ahead: int) -> None:
    """A place where a daemon of our ledger has our epoch, or a newer one, before we were anywhere: ours is an old copy."""
    await desk.station("x", "a", desk.ledger.epoch + ahead).own()
    with pytest.raises(StateLost, match="it is an old copy"):
        await desk.takings.take(desk.station("x", "a"), 0)


async def test_a_place_that_has_lost_everything_is_not_taken(desk: Desk) -> None:
    """With live jobs there, an empty place is the wrong place; without, it is a new one."""
    station = desk.station("x", "a")
    with pytest.raises(NotOwner, match="holds nothing of ours, but the ledger knows of 2 live jobs there"):
        await desk.takings.take(station, 2)
    await desk.takings.take(station, 0)
