"""This machine as a host: whole programs only, in a clean environment, and never ended by us."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reconciler.errors import Unreachable
from reconciler.hosts import local
from reconciler.hosts.base import CUT_SHORT_EXIT, WHOLE, NotBegun, entry
from reconciler.hosts.local import LocalHost
from tests.hosts.conftest import until

pytestmark = pytest.mark.real("bash")


def threads() -> int:
    return sum(thread.name == "local-host" for thread in threading.enumerate())


async def test_output_error_output_and_exit_code_come_back() -> None:
    """What a program writes comes back byte for byte, with its exit code."""
    outcome = await LocalHost().run("printf 'a\\000\\377b'; echo wrong >&2; exit 7", 10)
    assert (outcome.out, outcome.err, outcome.code) == (b"a\0\xffb", b"wrong\n", 7)
    assert 0 < outcome.elapsed_s < 10


async def test_a_program_that_dies_of_a_signal_has_an_exit_code() -> None:
    """A death by signal is told as a shell tells it."""
    assert (await LocalHost().run("kill -9 $$", 10)).code == 137


async def test_a_program_has_no_standard_input_left() -> None:
    """What a program reads from its standard input is nothing: not the rest of its own text."""
    assert (await LocalHost().run("cat\necho end", 10)).out == b"end\n"


async def test_large_programs_and_answers_pass() -> None:
    """A megabyte of program and five of answer are no trouble, also on both outputs."""
    program = f"#{'x' * 1_000_000}\nhead -c 5000000 /dev/zero\nhead -c 300000 /dev/zero >&2"
    outcome = await LocalHost().run(program, 30)
    assert (len(outcome.out), len(outcome.err), outcome.code) == (5_000_000, 300_000, 0)


async def test_odd_bytes_of_file_names_pass() -> None:
    """A name that is no UTF-8, as Python reads it from the disk, arrives as it is."""
    assert (await LocalHost().run("printf %s 'd\udcff\u00fc'", 10)).out == b"d\xff\xc3\xbc"


async def test_the_daemon_s_environment_stays_here(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A program sees nothing of the daemon's environment but what a scheduler's commands need, and begins at home."""
    for name in ("SSH_AUTH_SOCK", "SBATCH_ACCOUNT", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    out = (await LocalHost().run("env; pwd", 10)).out.decode()
    assert "secret" not in out
    assert "SLURM_CONF=/etc/slurm/slurm.conf" in out
    assert out.splitlines()[-1] == str(home)


@pytest.mark.parametrize("login_shell", [False, True])
async def test_the_profile_is_read_on_request(home: Path, login_shell: bool) -> None:
    """With login_shell the user's profile sets PATH, and nothing else of it reaches the program."""
    (home / ".bash_profile").write_text('export PATH="/opt/site/bin:$PATH" SBATCH_ACCOUNT=lab\n')
    out = (await LocalHost(login_shell).run('echo "$PATH,${SBATCH_ACCOUNT-none}"', 10)).out.decode()
    assert out.startswith("/opt/site/bin:") == login_shell
    assert out.endswith(",none\n")


async def test_a_time_out_leaves_the_program_running(tmp_path: Path) -> None:
    """What does not answer in time may go on, is not ended, and is reaped when it ends by itself."""
    before = threads()
    host = LocalHost()
    with pytest.raises(Unreachable, match="may still go on") as late:
        await host.run(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; head -c 200000 /dev/zero; : >{tmp_path}/done", 0.2)
    assert not isinstance(late.value, NotBegun)
    (tmp_path / "go").touch()
    await until((tmp_path / "done").exists)
    await until(lambda: threads() == before)
    assert (await host.run("echo on", 10)).out == b"on\n"


async def test_a_program_is_out_of_reach_of_the_terminal_s_signals() -> None:
    """A program is in a session of its own: Ctrl-C of the daemon does not reach an sbatch in flight."""
    out = (await LocalHost().run("read -r pid name state parent group session rest </proc/$$/stat; echo $session", 10)).out
    assert int(out) != os.getsid(0)


async def test_a_cancelled_caller_leaves_the_program_running(tmp_path: Path) -> None:
    """A daemon that stops waiting ends nothing either."""
    before = threads()
    host = LocalHost()
    running = asyncio.create_task(host.run(f": >{tmp_path}/begun; sleep 0.3; : >{tmp_path}/done", 30))
    await until((tmp_path / "begun").exists)
    running.cancel()
    await asyncio.wait([running])
    await host.close()
    await until((tmp_path / "done").exists)
    await until(lambda: threads() == before)


def test_a_daemon_that_ends_leaves_the_program_running(tmp_path: Path) -> None:
    """Neither the end of the event loop nor that of the process reaches a program in flight."""
    program = f": >{tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; : >{tmp_path}/done"
    code = (
        "import asyncio, pathlib\n"
        "from reconciler.hosts.local import LocalHost\n"
        "async def main():\n"
        f"    running = asyncio.create_task(LocalHost().run({program!r}, 60))\n"
        f"    while not pathlib.Path({str(tmp_path)!r}, 'begun').exists(): await asyncio.sleep(0.01)\n"
        "    running.cancel()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])
    (tmp_path / "go").touch()
    asyncio.run(until((tmp_path / "done").exists))


async def test_an_answer_without_end_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """More output than any honest answer is thrown away, and said."""
    monkeypatch.setattr(local, "OUTPUT_BYTES_MAX", 100_000)
    with pytest.raises(Unreachable, match="larger than 100000 bytes"):
        await LocalHost().run("head -c 100001 /dev/zero", 30)
    assert len((await LocalHost().run("head -c 100000 /dev/zero", 30)).out) == 100_000


async def test_no_more_than_five_programs_at_a_time(tmp_path: Path) -> None:
    """A login node is shared: fifty programs run five at a time, and all of them run."""
    program = f"mkdir {tmp_path}/$$; ls {tmp_path} | grep -c '^[0-9]'; sleep 0.02; rmdir {tmp_path}/$$"
    host = LocalHost()
    outcomes = await asyncio.gather(*(host.run(program, 30) for _ in range(50)))
    assert max(int(outcome.out) for outcome in outcomes) <= 5
    assert len(outcomes) == 50


async def test_a_full_host_says_that_nothing_was_run(tmp_path: Path) -> None:
    """When five programs hold all places for the whole time, the sixth was provably not begun."""
    host = LocalHost()
    busy = [asyncio.create_task(host.run(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", 30)) for _ in range(5)]
    await asyncio.sleep(0)  # each takes its place
    with pytest.raises(NotBegun, match="5 programs are running"):
        await host.run(f": >{tmp_path}/sixth", 0.1)
    (tmp_path / "go").touch()
    assert [outcome.code for outcome in await asyncio.gather(*busy)] == [0] * 5
    assert not (tmp_path / "sixth").exists()


async def test_a_machine_that_can_start_nothing_says_so() -> None:
    """A program that could not be started was provably not run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(NotBegun, match="Too many open files"):
            await LocalHost().run("true", 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("login_shell", [False, True])
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_program_that_was_cut_short_runs_nothing(tmp_path: Path, shell: str, login_shell: bool) -> None:
    """Whatever part of a program arrives, unless it is all of it, nothing of it is run; in any login shell."""
    program = f": >{tmp_path}/ran\n{WHOLE}".encode()
    for length in (0, 5, len(program) - 2, len(program) - len(WHOLE)):
        words = [shell, "-c", entry(login_shell)]
        assert subprocess.run(words, input=program[:length], timeout=30).returncode == CUT_SHORT_EXIT
        assert not (tmp_path / "ran").exists()
    assert subprocess.run([shell, "-c", entry(login_shell)], input=program, timeout=30).returncode == 0
    assert (tmp_path / "ran").exists()
    assert os.path.getsize(tmp_path / "ran") == 0
