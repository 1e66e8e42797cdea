"""When a host is connected to again: never too often, and at once when it may help. Time is moved by hand; the hosts are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import Unreachable
from reconciler.hosts.ssh import SshHost, SshPlace, Tuning
from tests.hosts.conftest import Clock, Hosts, place, refusal
from tests.sshd import Sshd, make_key

pytestmark = pytest.mark.real("sshd", "ssh-keygen")


class Door:
    """Listens, counts who comes, and shuts in their face (or lets them wait)."""

    def __init__(self) -> None:
        self.visits = 0
        self.patient = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        if self.patient:
            await reader.read()
        writer.close()


@pytest.fixture
async def door() -> AsyncIterator[tuple[Door, int]]:
    shut = Door()
    server = await asyncio.start_server(shut, "127.0.0.1", 0)
    async with server:
        yield shut, server.sockets[0].getsockname()[1]


def stranger(port: int, folder: Path) -> SshPlace:
    return SshPlace("127.0.0.1", port=port, key_path=str(make_key(folder / "key")), known_hosts=str(folder / "known_hosts"))


async def test_a_host_that_fails_is_asked_ever_more_rarely(hosts: Hosts, door: tuple[Door, int], tmp_path: Path, clock: Clock) -> None:
    """After 1 s, then 2, 4 … up to 60; in between programs are refused at once, with the reason and the time of the next try."""
    shut, port = door
    host = hosts.at(stranger(port, tmp_path))
    said = await refusal(host)
    assert said.startswith(f"127.0.0.1:{port}: the connection ") and "; asked again after 20" in said  # it broke, or was reset
    visits = 1
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        clock.seconds += pause - 0.001
        said = await refusal(host)
        assert await refusal(host) == said
        assert shut.visits == visits
        clock.seconds += 0.002
        await refusal(host)
        visits += 1
        assert shut.visits == visits


async def test_many_callers_knock_once(hosts: Hosts, door: tuple[Door, int], tmp_path: Path) -> None:
    """Callers that wait for the same connection all hear the same refusal, after one attempt."""
    shut, port = door
    host = hosts.at(stranger(port, tmp_path))
    said = await asyncio.gather(*(refusal(host) for _ in range(5)))  # more would wait for a place
    assert len(set(said)) == 1
    assert shut.visits == 1


def test_pauses_have_jitter() -> None:
    """Chance makes a pause up to half as long, so that daemons do not all come at the same moment."""
    chances = [1.0, 0.5, 0.0]
    assert [Tuning(jitter=chances.pop).pause_s(4, denied=False) for _ in range(3)] == [4.0, 6.0, 8.0]
    assert Tuning(jitter=lambda: 1.0).pause_s(5000, denied=True) == 3600
    assert 0.5 <= Tuning().pause_s(1, denied=False) <= 1


async def test_a_host_that_does_not_answer_is_given_up(hosts: Hosts, door: tuple[Door, int], tmp_path: Path) -> None:
    """A port that accepts and says nothing is given up after connect_timeout_s."""
    shut, port = door
    shut.patient = True
    said = await refusal(hosts.at(replace(stranger(port, tmp_path), connect_timeout_s=0.3)))
    assert f"127.0.0.1:{port}: no login within 0.3 s" in said


async def test_an_sshd_that_is_down_and_comes_back(hosts: Hosts, own_sshd: Sshd, clock: Clock) -> None:
    """A connection that was in use is made anew at once; when nothing listens it is said, and later it works again by itself."""
    host = hosts(own_sshd)
    await host.run("true", 20)
    assert host.up_since is not None
    own_sshd.cut()
    own_sshd.stop()
    with pytest.raises(Unreachable):  # it may be noticed only while a program is on its way
        await host.run("true", 20)
    said = await refusal(host)
    assert "nothing listens there" in said
    own_sshd.start()
    assert await refusal(host) == said
    clock.seconds += 2
    assert (await host.run("echo back", 20)).out == b"back\n"
    assert host.connects == 2


async def test_connections_that_are_of_no_use_are_not_made_in_a_hurry(hosts: Hosts, tmp_path: Path, clock: Clock) -> None:
    """A host that lets us in and opens no channel is asked twice at once, and then ever more rarely."""
    with Sshd(tmp_path / "sshd", any_command=True, more="MaxSessions 0\n") as sshd:
        host = hosts(sshd)
        await refusal(host)
        await refusal(host)
        assert host.connects == 2
        assert "opened no channel" in await refusal(host)
        assert host.connects == 2
        clock.seconds += 1
        await refusal(host)
        await refusal(host)
        assert host.connects == 3


def attempts(sshd: Sshd) -> int:
    return sshd.log().count("Failed publickey")


async def test_a_refused_key_is_not_tried_again_soon(hosts: Hosts, own_sshd: Sshd, tmp_path: Path, clock: Clock) -> None:
    """A login that failed is repeated after 5 minutes, then 10, up to an hour: no account is locked by us."""
    key = make_key(tmp_path / "wrong")
    host = hosts(own_sshd, key_path=str(key))
    said = await refusal(host)
    assert "it lets none of our keys in" in said and str(key) in said and "authorized_keys" in said and "asked again after" in said
    assert "second factor" in said
    assert attempts(own_sshd) == 1
    for number, pause in enumerate((300, 600, 1200, 2400, 3600, 3600), start=1):
        clock.seconds += pause - 1
        assert await refusal(host) == said
        assert attempts(own_sshd) == number
        clock.seconds += 2
        said = await refusal(host)
        assert attempts(own_sshd) == number + 1


async def test_a_changed_key_file_is_tried_at_once(hosts: Hosts, own_sshd: Sshd, tmp_path: Path) -> None:
    """Whoever puts the right key in its place does not wait for five minutes."""
    key = make_key(tmp_path / "key")
    host = hosts(own_sshd, key_path=str(key))
    await refusal(host)
    await refusal(host)
    assert attempts(own_sshd) == 1
    key.write_bytes(own_sshd.key.read_bytes())
    key.with_suffix(".pub").unlink()
    answers = await asyncio.gather(*(host.run("echo in", 20) for _ in range(5)))
    assert [answer.out for answer in answers] == [b"in\n"] * 5
    assert host.connects == 1


async def test_nothing_is_connected_before_the_first_program(own_sshd: Sshd) -> None:
    """A host that is made and closed was never asked."""
    before = own_sshd.visits()
    host = SshHost(place(own_sshd))
    assert (host.connects, host.up_since, host.where) == (0, None, f"127.0.0.1:{own_sshd.port}")
    await host.close()
    assert own_sshd.visits() == before
