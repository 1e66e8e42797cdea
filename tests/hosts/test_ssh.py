"""Programs over a real ssh connection: what comes back, and what is certain when nothing does."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from reconciler.errors import Unreachable
from reconciler.hosts import ssh_session
from reconciler.hosts.base import NotBegun
from tests.hosts.conftest import Frozen, Hosts, until
from tests.sshd import Sshd

pytestmark = pytest.mark.real("sshd", "ssh-keygen", "bash")


async def test_output_error_output_and_exit_code_come_back(hosts: Hosts, sshd: Sshd) -> None:
    """What a program writes comes back byte for byte, with its exit code."""
    outcome = await hosts(sshd).run("printf 'a\\000\\377b'; echo wrong >&2; exit 7", 20)
    assert (outcome.out, outcome.err, outcome.code) == (b"a\0\xffb", b"wrong\n", 7)
    assert 0 < outcome.elapsed_s < 20


async def test_a_program_that_dies_of_a_signal_has_an_exit_code(hosts: Hosts, sshd: Sshd) -> None:
    """A death by signal is told as a shell tells it."""
    assert (await hosts(sshd).run("kill -9 $$", 20)).code == 137


async def test_two_hundred_callers_share_one_connection_and_five_channels(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """However many ask at once, one login is made, and no more than five programs run at a time; each gets its own answer."""
    host = hosts(sshd)
    running = tmp_path / "running"
    running.mkdir()
    program = "mkdir {0}/$$; ls {0} | wc -l; rmdir {0}/$$; echo {1}"
    outcomes = await asyncio.gather(*(host.run(program.format(running, number), 60) for number in range(200)))
    answers = [outcome.out.split() for outcome in outcomes]
    assert [int(answer[1]) for answer in answers] == list(range(200))
    assert max(int(answer[0]) for answer in answers) <= 5
    assert host.connects == 1


async def test_large_programs_and_answers_pass(hosts: Hosts, sshd: Sshd) -> None:
    """A megabyte of program, which is more than one window, and five of answer are no trouble, also on both outputs."""
    program = f"#{'x' * 4_000_000}\nhead -c 5000000 /dev/zero\nhead -c 3000000 /dev/zero >&2"
    outcome = await hosts(sshd).run(program, 60)
    assert (len(outcome.out), len(outcome.err), outcome.code) == (5_000_000, 3_000_000, 0)


async def test_nothing_of_ours_is_in_a_program_s_environment(
    hosts: Hosts, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the agent, nor what the daemon or the ssh config would send along, gets to the far side, though sshd would take it."""
    for name in ("SSH_AUTH_SOCK", "SBATCH_ACCOUNT", "LC_SECRET"):
        monkeypatch.setenv(name, "secret")
    config = tmp_path / "config"
    words = "ForwardAgent yes\nSendEnv SBATCH_* LC_*\nSetEnv SBATCH_X=secret\nRequestTTY force\nRemoteCommand false\nForwardX11Trusted yes"
    config.write_text(words)
    host = hosts(sshd, config_path=str(config))
    out = (await host.run("env; tty", 20)).out.decode()
    assert "secret" not in out and "SSH_" not in out and "SBATCH" not in out
    assert out.splitlines()[-1] == "not a tty"
    assert f"HOME={sshd.home}" in out.splitlines()


@pytest.mark.parametrize("login_shell", [False, True])
async def test_the_profile_is_read_on_request(hosts: Hosts, own_sshd: Sshd, login_shell: bool) -> None:
    """With login_shell the user's profile sets PATH, and nothing else of it reaches the program."""
    (own_sshd.home / ".bash_profile").write_text('export PATH="/opt/site/bin:$PATH" SBATCH_ACCOUNT=lab\n')
    host = hosts(own_sshd, login_shell=login_shell)
    out = (await host.run('echo "$PATH,${SBATCH_ACCOUNT-none}"', 20)).out.decode()
    assert out.startswith("/opt/site/bin:") == login_shell
    assert out.endswith(",none\n")


async def test_a_time_out_leaves_the_program_and_the_connection(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """What does not answer in time may go on, is not ended, and the connection is used on."""
    host = hosts(sshd)
    with pytest.raises(Unreachable, match="may still go on") as late:
        await host.run(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; : >{tmp_path}/done", 0.3)
    assert not isinstance(late.value, NotBegun)
    assert (await host.run("echo on", 20)).out == b"on\n"
    (tmp_path / "go").touch()
    await until((tmp_path / "done").exists)
    assert host.connects == 1


async def test_cancelled_callers_hurt_nobody(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """Callers that go away at any moment leave the connection, all five places, and the others' answers."""
    host = hosts(sshd)
    first = asyncio.create_task(host.run("echo never heard", 20))
    other = asyncio.create_task(host.run("echo heard", 20))
    await asyncio.sleep(0)
    first.cancel()  # it was the one that began to connect
    assert (await other).out == b"heard\n"
    for turns in range(40):
        hasty = [asyncio.create_task(host.run("sleep 0.01", 20)) for _ in range(8)]
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        for task in hasty:
            task.cancel()
        await asyncio.wait(hasty)
    program = f"mkdir {tmp_path}/$$; while [ $(ls {tmp_path} | wc -l) -lt 5 ]; do sleep 0.02; done"
    assert [outcome.code for outcome in await asyncio.gather(*(host.run(program, 20) for _ in range(5)))] == [0] * 5
    assert host.connects == 1


async def test_a_connection_that_is_cut_while_a_program_runs_leaves_doubt(hosts: Hosts, own_sshd: Sshd, tmp_path: Path) -> None:
    """A program that had been sent when the connection broke may have run; the next one gets a new connection."""
    host = hosts(own_sshd)
    running = asyncio.create_task(host.run(f"echo part; : >{tmp_path}/begun; sleep 1; echo rest", 30))
    await until((tmp_path / "begun").exists)
    own_sshd.cut()
    with pytest.raises(Unreachable, match="connection broke before the answer was complete") as broken:
        await running
    assert not isinstance(broken.value, NotBegun)
    assert (await host.run("echo again", 20)).out == b"again\n"
    assert host.connects == 2


async def test_a_connection_that_is_cut_while_a_program_travels_leaves_none(hosts: Hosts, own_sshd: Sshd, tmp_path: Path) -> None:
    """As long as the end of a program was not sent, it is certain that nothing of it ran, and it is said."""
    host = hosts(own_sshd)
    await host.run("true", 20)
    program = f": >{tmp_path}/ran\n#{'x' * 20_000_000}\n"
    with Frozen(own_sshd) as pids:
        running = asyncio.create_task(host.run(program, 1))
        stuck = asyncio.create_task(host.run("echo", 0.3))
        with pytest.raises(NotBegun, match=r"no channel within 0\.3 s"):
            await stuck
        for pid in pids:
            os.kill(pid, 9)
        with pytest.raises(NotBegun):
            await running
    assert (await host.run(f"ls {tmp_path}", 20)).out.split() == [b"home", b"sshd"]


async def test_a_program_that_travels_too_slowly_is_not_begun(hosts: Hosts, own_sshd: Sshd, tmp_path: Path) -> None:
    """A time-out before the end of the program was sent is no doubt either: what comes of it later is cut short."""
    host = hosts(own_sshd)
    (own_sshd.home / ".bashrc").write_text(f": >{tmp_path}/open; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n")
    program = f": >{tmp_path}/ran\n#{'x' * 20_000_000}\n"
    with pytest.raises(NotBegun, match="before the program had been sent"):
        await host.run(program, 1)
    (tmp_path / "go").touch()
    await until(lambda: own_sshd.programs() == [])
    assert (await host.run("echo on", 20)).out == b"on\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["go", "home", "open", "sshd"]


async def test_a_peer_that_is_gone_without_a_word_is_noticed(hosts: Hosts, own_sshd: Sshd, tmp_path: Path) -> None:
    """After three keep-alives without an answer the connection is given up, long before the program's own time is over."""
    host = hosts(own_sshd, keepalive_s=0.2)
    running = asyncio.create_task(host.run(f": >{tmp_path}/begun; sleep 30", 60))
    await until((tmp_path / "begun").exists)
    with Frozen(own_sshd), pytest.raises(Unreachable, match="keepalive"):
        async with asyncio.timeout(20):
            await running
    assert host.up_since is None
    assert (await host.run("echo again", 20)).out == b"again\n"


async def test_programs_that_never_end_do_not_use_up_the_host(hosts: Hosts, own_sshd: Sshd, tmp_path: Path) -> None:
    """sshd counts a session until its program ends: when all ten are held by lost programs, a new connection is made."""
    host = hosts(own_sshd)
    assert (await host.run("echo first", 20)).out == b"first\n"
    for _ in range(2):
        lost = [host.run(f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done", 0.5) for _ in range(5)]
        assert all(isinstance(error, Unreachable) for error in await asyncio.gather(*lost, return_exceptions=True))
    with pytest.raises(NotBegun, match="opened no channel"):
        await host.run(f": >{tmp_path}/refused", 20)
    assert (await host.run("echo on", 20)).out == b"on\n"
    assert host.connects == 2
    assert len(own_sshd.connections()) == 1
    assert not (tmp_path / "refused").exists()
    (tmp_path / "go").touch()


async def test_a_host_that_allows_fewer_sessions_is_used_with_fewer(hosts: Hosts, tmp_path: Path) -> None:
    """Where sshd allows two sessions, twenty programs wait for one another, on one connection."""
    with Sshd(tmp_path / "sshd", any_command=True, more="MaxSessions 2\n") as sshd:
        host = hosts(sshd)
        outcomes = await asyncio.gather(*(host.run(f"echo {number}", 30) for number in range(20)))
        assert [int(outcome.out) for outcome in outcomes] == list(range(20))
        assert host.connects == 1


async def test_an_answer_without_end_is_not_believed(hosts: Hosts, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """More output than any honest answer is thrown away, and said; the connection is used on."""
    monkeypatch.setattr(ssh_session, "OUTPUT_BYTES_MAX", 100_000)
    host = hosts(sshd)
    with pytest.raises(Unreachable, match="answer is larger than"):
        await host.run("while :; do head -c 100001 /dev/zero || exit; done", 30)
    assert len((await host.run("head -c 100000 /dev/zero", 30)).out) == 100_000
    assert host.connects == 1


async def test_a_closed_host_runs_nothing(hosts: Hosts, own_sshd: Sshd, tmp_path: Path) -> None:
    """Closing ends the connection and leaves programs alone; who asks later is told that nothing was run, and who waits at once."""
    host = hosts(own_sshd)
    program = f": >{tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; : >{tmp_path}/done"
    running = asyncio.create_task(host.run(program, 30))
    await until((tmp_path / "begun").exists)
    await host.close()
    with pytest.raises(Unreachable):
        await running
    with pytest.raises(NotBegun, match="closed"):
        await host.run("true", 20)
    await until(lambda: own_sshd.connections() == [])
    (tmp_path / "go").touch()
    await until((tmp_path / "done").exists)


async def test_closing_while_connecting_tells_who_waits(hosts: Hosts, own_sshd: Sshd) -> None:
    """A caller that waits for a connection when the host is closed hears so, and is not taken for cancelled."""
    host = hosts(own_sshd)
    waiting = asyncio.create_task(host.run("true", 20))
    await asyncio.sleep(0)
    await host.close()
    with pytest.raises(NotBegun, match="closed"):
        await waiting
