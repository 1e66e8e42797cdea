"""The script of a job, run by real shells: what it takes, what it writes, and that nothing in a request can execute."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.backends.base import FENCED_EXIT, JobRequest
from reconciler.backends.marks import Claim, Exit, Owner, Process, parse_claim, parse_exit, parse_start
from reconciler.backends.script import Layout, claimed_script, identify_process, job_script, trouble
from tests.backends.conformance import RUN, name

CLAIM = Claim(Owner("ledger-1", 1), "boot", 60)
NAMESPACE = os.stat("/proc/self/ns/pid").st_ino
#: What a shell's environment can hold: no NUL, and text.
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
#: `${NAME}` means the far side's value, by contract; everything that only looks like it is literal.
LITERAL = VALUES.filter(lambda text: "${" not in text)
SHELLS = [shell for shell in ("/bin/dash", "/bin/bash", "/bin/busybox") if Path(shell).exists()]


class Spooled:
    """A spool with one job in it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "a folder's" / name()
        self.exits = root / "exits"
        (self.folder / "work").mkdir(parents=True)
        self.exits.mkdir()

    def write(self, command: str, umask: str = "", **fields: Any) -> None:
        request = JobRequest(job=name(), run=RUN, task="t", command=command, **fields)
        assert trouble(request) == ""
        layout = Layout(str(self.folder), str(self.exits), identify_process(NAMESPACE), umask)
        (self.folder / "script").write_text(claimed_script(CLAIM, job_script(request, layout)))

    def run(self, shell: str = "/bin/sh", **env: str) -> int:
        argv = [shell, "sh"] if shell.endswith("busybox") else [shell]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder.parent), **env}
        done = subprocess.run([*argv, str(self.folder / "script")], env=environment, stdin=subprocess.DEVNULL, timeout=20, check=False)
        return done.returncode

    @property
    def exit(self) -> object:
        return parse_exit((self.exits / name()).read_text())

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()


@pytest.fixture
def spooled(tmp_path: Path) -> Spooled:
    return Spooled(tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
def test_any_posix_shell_runs_the_wrapper(shell: str, spooled: Spooled) -> None:
    """The wrapper takes its start, runs the command and writes the exit record, whichever shell `sh` is."""
    spooled.write('echo "$0 $#"; echo err >&2; exit 7')
    assert spooled.run(shell) == 7
    assert spooled.exit == Exit(7, "command")
    start = parse_start((spooled.folder / "start.0").read_text())
    assert isinstance(start, Process)
    assert (start.boot, start.namespace) == (Path("/proc/sys/kernel/random/boot_id").read_text().strip(), NAMESPACE)
    assert start.pid > 1 and start.ticks > 0
    assert spooled.out == f"{spooled.folder}/script 0\n"
    assert (spooled.folder / "err").read_text() == "err\n"
    assert sorted(path.name for path in spooled.folder.iterdir()) == ["err", "exit", "out", "script", "start.0", "work"]
    assert parse_claim((spooled.folder / "script").read_text()) == CLAIM


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("taken", ["revoked 1 x 1 end\n", "", "start 1 process other 1 2 3 end\n"])
def test_a_start_that_is_taken(shell: str, taken: str, spooled: Spooled) -> None:
    """A wrapper that finds its start taken leaves with the reserved code, says so in `fenced`, and runs nothing."""
    spooled.write(f"touch {spooled.exits}/ran")
    (spooled.folder / "start.0").write_text(taken)
    assert spooled.run(shell) == FENCED_EXIT
    assert (spooled.folder / "start.0").read_text() == taken
    assert (spooled.folder / "fenced").read_text().startswith("fenced 1 process ")
    assert list(spooled.exits.iterdir()) == []


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("before", "ran"),
    [
        ({}, True),  # the first start did not come so far
        ({"start.0": "start 1 job 77 0 4.0 end\n"}, True),
        ({"start.0": "start 1 job 78 0 4.0 end\n"}, False),
        ({"start.0": "revoked 1 x 1 end\n"}, False),
        ({"start.0": ""}, False),
        ({"start.0": "start 1 job 77 0 4.0 end\n", "exit": "exit 1 0 command job 77 0 4.0 5.0 end\n"}, False),
        ({"start.0": "start 1 job 77 0 4.0 end\n", "exit": "exit 1 143 interrupted job 77 0 4.0 5.0 end\n"}, True),
        ({"start.0": "start 1 job 77 0 4.0 end\n", "exit": "exit 1 143 interrupted job 77 0 4"}, False),
        ({"start.0": "start 1 job 78 0 4.0 end\n", "exit": "exit 1 143 interrupted job 78 0 4.0 5.0 end\n"}, False),
        ({"start.0": "start 1 job 77 0 4.0 end\n", "cancel": "cancel 1 x 1 end\n"}, False),
    ],
)
def test_a_restart(shell: str, before: dict[str, str], ran: bool, spooled: Spooled) -> None:
    """A job that its scheduler has restarted does its work unless its start is another's, was revoked, or it was to end; no start of a
    job that runs is free to be revoked."""
    request = JobRequest(job=name(), run=RUN, task="t", command=f"touch {spooled.exits}/ran", requeue=True)
    layout = Layout(str(spooled.folder), str(spooled.exits), 'me="job 77 2 5.5"', count="2")
    (spooled.folder / "script").write_text(f"#!/bin/sh\n{job_script(request, layout)}")
    for record, text in before.items():
        (spooled.folder / record).write_text(text)
    assert spooled.run(shell) == (0 if ran else FENCED_EXIT)
    assert (spooled.exits / "ran").exists() is ran
    assert (spooled.folder / "exit").exists() is (ran or "exit" in before)
    if ran:
        assert (spooled.folder / "exit").read_text().startswith("exit 1 0 command")
        mine = "start 1 job 77 2 5.5 end\n"
        starts = [(spooled.folder / f"start.{number}").read_text() for number in range(3)]
        assert starts == [before.get("start.0", mine), mine, mine]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("requeue", "what"), [(True, "interrupted"), (False, "command")])
@pytest.mark.parametrize("code", [0, 9])
def test_a_job_that_is_told_to_end(shell: str, requeue: bool, what: str, code: int, spooled: Spooled) -> None:
    """A job that its scheduler may start again, and that was told to end, says so in its exit record, whatever its command made of it."""
    command = f"trap 'exit {code}' TERM; kill -TERM $PPID; while :; do sleep 0.01; kill -TERM $$; done"
    request = JobRequest(job=name(), run=RUN, task="t", command=command, requeue=requeue)
    layout = Layout(str(spooled.folder), str(spooled.exits), 'me="job 77 0 5.5"', count="0")
    (spooled.folder / "script").write_text(f"#!/bin/sh\n{job_script(request, layout)}")
    assert spooled.run(shell) == code
    assert (spooled.folder / "exit").read_text() == (spooled.exits / name()).read_text() == f"exit 1 {code} {what} end\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_spool_that_is_gone(shell: str, spooled: Spooled, tmp_path: Path) -> None:
    """A wrapper whose folder is gone leaves with the reserved code and makes no folder."""
    spooled.write("true")
    script = spooled.folder / "script"
    elsewhere = tmp_path / "script"
    script.rename(elsewhere)
    shutil.rmtree(spooled.folder.parent)
    done = subprocess.run([shell, *(["sh"] if "busybox" in shell else []), str(elsewhere)], capture_output=True, check=False)
    assert done.returncode in {FENCED_EXIT, 2}  # dash leaves by itself when it cannot enter
    assert not spooled.folder.parent.exists()
    assert list(spooled.exits.iterdir()) == []


def test_a_working_directory_that_vanished(spooled: Spooled, tmp_path: Path) -> None:
    """A command never runs elsewhere than in its working directory: its exit record says what was missing."""
    spooled.write(f"touch {tmp_path}/ran", working_dir=str(tmp_path / "gone"))
    assert spooled.run() == 122
    assert spooled.exit == Exit(122, "workdir")
    assert not (tmp_path / "ran").exists()


def test_an_output_file_that_cannot_be_written(spooled: Spooled, tmp_path: Path) -> None:
    """A command never runs when its output has no place: its exit record says so."""
    spooled.write(f"touch {tmp_path}/ran", output_file=str(tmp_path / "gone" / "out"))
    assert spooled.run() == 122
    assert spooled.exit == Exit(122, "output")
    assert not (tmp_path / "ran").exists()


def test_init_that_goes_elsewhere(spooled: Spooled, tmp_path: Path) -> None:
    """`init` runs in the working directory, and wherever it goes the command starts there again."""
    spooled.write("pwd", working_dir=str(tmp_path), init="pwd\ncd /")
    assert spooled.run() == 0
    assert spooled.out == f"{tmp_path}\n{tmp_path}\n"


def test_paths_below_home(spooled: Spooled) -> None:
    """`~` in a working directory and an output file is the home of whoever runs the job."""
    (spooled.folder.parent / "w").mkdir()
    spooled.write("pwd", working_dir="~/w", output_file="~/log")
    assert spooled.run() == 0
    assert (spooled.folder.parent / "log").read_text() == f"{spooled.folder.parent}/w\n"


def test_one_file_for_both_streams(spooled: Spooled, tmp_path: Path) -> None:
    """Output and error to one file are both in it, in order; what an earlier attempt wrote is gone; its mode follows the umask."""
    log = tmp_path / "log"
    log.write_text("old\n")
    spooled.write("echo a; echo b >&2; echo c; touch made", umask="0022", working_dir=str(tmp_path), output_file="log", error_file="log")
    assert spooled.run() == 0
    assert log.read_text() == "a\nb\nc\n"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644


def test_a_command_of_any_length(spooled: Spooled) -> None:
    """A command longer than any argument may be runs."""
    spooled.write("x=1\n" * 100_000 + "echo done")
    assert spooled.run() == 0
    assert spooled.out == "done\n"


def test_a_here_document_without_an_end(spooled: Spooled) -> None:
    """What a command leaves open cannot reach the wrapper."""
    spooled.write("cat <<EOF\nhello\n$(echo there)")
    assert spooled.run() == 0
    assert spooled.out == "hello\nthere\n"


def test_a_login_shell_reads_the_profile(spooled: Spooled) -> None:
    """With `login_shell` the command sees what the user's profile sets."""
    (spooled.folder.parent / ".bash_profile").write_text("export FROM_PROFILE=yes\n")
    spooled.write('echo "${FROM_PROFILE-no}"', login_shell=True)
    assert spooled.run() == 0
    assert spooled.out == "yes\n"


def test_a_full_disk_is_no_start(spooled: Spooled) -> None:
    """A wrapper that can create its start record but not write it does no work."""
    spooled.write(f"touch {spooled.exits}/ran")
    script = spooled.folder / "script"
    script.write_text("ulimit -f 0\ntrap '' XFSZ\n" + script.read_text())  # no byte can be written to any file
    assert spooled.run() == FENCED_EXIT
    assert (spooled.folder / "start.0").read_text() == ""
    assert list(spooled.exits.iterdir()) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(LITERAL, min_size=1, max_size=30))
def test_a_job_sees_exactly_the_value(values: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever text a value is, the command sees exactly that, and nothing of it executes."""
    spooled = Spooled(tmp_path_factory.mktemp("env"))
    env = tuple((f"V{number}", value) for number, value in enumerate(values))
    spooled.write("".join(f'printf "%s\\0" "$V{number}"\n' for number in range(len(values))), env=env)
    assert spooled.run() == 0
    assert (spooled.folder / "out").read_bytes().decode().split("\0")[:-1] == values
    assert (spooled.folder / "err").read_text() == ""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folder=st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_folder_can_be_a_working_directory(folder: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a folder is called, the command runs in it, and nothing in the name executes."""
    root = tmp_path_factory.mktemp("dir")
    spooled = Spooled(root)
    work = root / "w" / ("x" + folder)
    work.mkdir(parents=True)
    spooled.write("pwd -P; touch here", working_dir=str(work), init="true")
    assert spooled.run() == 0
    assert [path.name for path in work.iterdir()] == ["here"]


REFUSED = {
    "env name": {"env": (("A B", "x"),)},
    "env name in another script": {"env": (("Ä", "x"),)},
    "empty env name": {"env": (("", "x"),)},
    "command in an env name": {"env": (("A=$(id);B", "x"),)},
    "NUL in a value": {"env": (("A", "\0"),)},
    "NUL in the command": {"command": "true\0"},
    "half a character": {"env": (("A", "\ud800"),)},
    "relative working directory": {"working_dir": "x"},
    "another's home": {"working_dir": "~root/x"},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=list(REFUSED))
def test_a_request_of_which_no_script_can_be_made(fields: dict[str, Any]) -> None:
    """What no shell could be told is found before anything is written."""
    assert trouble(JobRequest(**{"job": name(), "run": RUN, "task": "t", "command": "true", **fields})) != ""
