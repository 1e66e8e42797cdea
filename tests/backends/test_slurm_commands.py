"""The commands that are sent: whole words, short enough, and understood by a real shell; by a real Slurm too where one runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.base import QueueRow
from reconciler.backends.dialect import Dialect, Row, Submission
from reconciler.backends.slurm import Slurm
from reconciler.core.observed import JobState

MARK = "5eedcafe"
SLURM = Slurm()
DOWN = [json.loads(line) for line in (Path(__file__).parent / "recorded/slurm/down.jsonl").read_text().splitlines()]
SHELLS = [shell for shell in ("sh", "bash", "dash", "busybox") if shutil.which(shell)]
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


def in_shell(program: str, shell: str = "sh", variables: Mapping[str, str] | None = None) -> str:
    """What `program` prints, run with no environment but `variables`."""
    command = [shutil.which(shell) or shell, *(["sh"] if shell == "busybox" else [])]
    told = subprocess.run(command, input=program, env=variables or {}, capture_output=True, text=True, check=True, timeout=20)
    assert told.stderr == ""
    return told.stdout


def test_it_is_a_dialect() -> None:
    """The whole contract is there (mypy checks the types)."""
    dialect: Dialect = SLURM
    assert dialect.title == "Slurm"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("variables", "me"),
    [
        ({"SLURM_JOB_ID": "12"}, "job 12 0"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}, "job 12 2"),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}, "job 17_3 0"),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"}, "job 17_3 1"),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17"}, "job 19 0"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "x y"}, "job 12 0"),
        ({"SLURM_JOB_ID": "1; echo"}, "job none 0"),
        ({}, "job none 0"),
    ],
)
def test_a_job_knows_which_it_is(shell: str, variables: dict[str, str], me: str) -> None:
    """From its environment, by builtins; a script that a person runs by hand is no job."""
    assert in_shell(f'set -u -f -C\nPATH=/nonexistent\n{SLURM.identify}\necho "$me"', shell, variables) == f"{me}\n"


@given(TEXT, TEXT, TEXT)
def test_whatever_a_submission_holds_it_is_whole_words(name: str, path: str, option: str) -> None:
    """Nothing of it is ever more than one argument, or looks like an option of its own."""
    submission = Submission(name, "c", "/spool", f"/spool/{path}", f"/spool/{path}/out", (f"--partition={option}",))
    words = shlex.split(SLURM.submit(submission).removesuffix(" </dev/null"))
    assert words[0] == "sbatch"
    assert words[1] == f"--partition={option}"
    assert f"--job-name={name}" in words
    assert words[-2:] == ["--", f"/spool/{path}"]
    assert all(word.startswith("--") for word in words[1:-1])


def test_the_submit_command() -> None:
    """Ours last, so that it wins; the array's elements are shell text, and each writes to a file of its own."""
    submission = Submission("n", "c", "/s/f", "/s/f/script", "/s/f/scheduler.out", ("--time=1", "--no-requeue"), '"$won"')
    assert SLURM.submit(submission) == (
        "sbatch '--time=1' '--no-requeue' '--parsable' '--parsable' '--export=ALL' '--open-mode=append' '--job-name=n' '--comment=c' "
        "'--chdir=/s/f' '--output=/s/f/scheduler.out.%a' --array=\"$won\" -- '/s/f/script' </dev/null"
    )


@pytest.mark.parametrize(
    ("path", "said"), [("/s/100%/o", "/s/100%%/o"), ("/s/%j/%%", "/s/%%j/%%%%"), (r"/s/a\b/o", r"/s/a\\b/o"), (r"/s/a\%j", r"/s/a\\%j")]
)
def test_a_percent_sign_in_a_path_is_itself(path: str, said: str) -> None:
    """Slurm would put the job's id there; with a backslash in the path it takes `%` as it is (measured)."""
    assert f"'--output={said}'" in SLURM.submit(Submission("n", "c", "/s", "/s/x", path, ()))


def test_every_partition_is_asked_for() -> None:
    """The queue is that of all partitions: jobs in a hidden one are hidden from their own user, too, unless they are asked for."""
    for command in (SLURM.queue("MARK"), SLURM.everybody("MARK"), SLURM.comments("MARK")):
        assert "-a" in command.split()


def test_no_list_of_ids_is_longer_than_an_argument_may_be() -> None:
    """10,000 elements are asked for in some calls, each below 128 KiB."""
    ids = [f"4294967295_{index}" for index in range(10_000)]
    for command in (SLURM.jobs(MARK, ids), SLURM.accounts(MARK, ids)):
        lists = [part.rpartition(" ")[2] for part in command.split(" && ")]
        assert [each for part in lists for each in dict.fromkeys(part.split(","))] == ids
        assert max(len(part) for part in lists) < 128 * 1024
    assert len(SLURM.cancel(ids).splitlines()) == 5


def test_a_single_unknown_id_is_no_error() -> None:
    """squeue fails for one id that it does not know, and not for two: it is always given two."""
    assert SLURM.jobs(MARK, ["12"]).endswith(" -j 12,12")


@pytest.mark.parametrize("hostile", ["12; rm -rf /", "$(id)", "", "-u root", "12 13", "`id`", '"$id" x', "12\n13", "7_[*]"])
def test_what_is_no_id_is_left_out(hostile: str) -> None:
    """An id may have been read from a file of the far side."""
    for command in (SLURM.cancel(["12", hostile]), SLURM.jobs(MARK, ["12", hostile]), SLURM.accounts(MARK, ["12", hostile])):
        assert hostile.strip() not in command.replace("12", "").split(",") or not hostile
        assert "rm" not in command and "id)" not in command and "root" not in command and "`" not in command
    assert [SLURM.cancel([hostile]), SLURM.jobs(MARK, [hostile]), SLURM.accounts(MARK, [hostile])] == [":", ":", ":"]


def test_an_id_to_cancel_may_be_a_word_of_the_program() -> None:
    """It is quoted once."""
    assert SLURM.cancel(["12", "7_3", "$id", '"${id}_$index"']) == 'scancel 12 7_3 "$id" "${id}_$index"'


def test_rows_for_people_are_as_the_scheduler_has_them() -> None:
    """Its own word for the state, and our words for the reason."""
    row = Row("7_3", "n", JobState.QUEUED, "PENDING", 3, reason="waits", user="u")
    assert SLURM.queue_rows([row]) == [QueueRow("7_3", "n", "u", "PENDING", "waits")]


@pytest.mark.parametrize("recorded", DOWN, ids=lambda recorded: f"{recorded['name']}, {recorded['command']}")
def test_a_command_that_failed_says_whose_fault_it_was(recorded: dict[str, str | int]) -> None:
    """For every recorded failure: the daemon by its name, and what the command said."""
    told = SLURM.unreachable(str(recorded["command"]), int(recorded["code"]), str(recorded["out"]))
    culprit = {
        "munge is down": "munge is not running there",
        "slurmctld is down": "slurmctld is not running, or cannot be reached",
        "slurmctld hangs": "slurmctld does not answer in time",
        "slurmdbd hangs": "the accounting (slurmdbd) does not answer",
        "slurmdbd is down": "the accounting (slurmdbd) does not answer",
        "no accounting": "this cluster keeps no accounting",
    }[str(recorded["name"])]
    assert told.startswith(culprit) and f"({recorded['command']}: " in told and "\n" not in told


def test_a_command_that_is_not_there_says_how_to_find_it() -> None:
    """The cure is login_shell."""
    assert SLURM.unreachable("squeue -h", 127, "sh: 1: squeue: not found").startswith("squeue is not there: ")
    assert "login_shell" in SLURM.unreachable("squeue", 127, "")
    assert SLURM.unreachable("squeue", 9, "") == "squeue ended with code 9: it said nothing"


def test_the_prologue_takes_away_what_would_change_an_answer() -> None:
    """A profile's SQUEUE_FORMAT, SLURM_CLUSTERS and the like are gone, and times are numbers."""
    profile = {"SQUEUE_FORMAT": "%i", "SQUEUE_STATES": "all", "SLURM_CLUSTERS": "far", "SBATCH_TIMELIMIT": "1", "SLURM_CONF": "/etc/x"}
    told = in_shell(f"{SLURM.prologue}\nenv", variables=profile | {"PATH": os.defpath})
    assert {line.partition("=")[0] for line in told.splitlines()} >= {"SLURM_CONF", "SLURM_TIME_FORMAT", "LC_ALL"}
    assert not [line for line in told.splitlines() if line.startswith(("SQUEUE_", "SBATCH_", "SLURM_CLUSTERS"))]


FAKE = """#!/bin/sh
case $0 in
*scontrol) [ -z "$BROKEN" ] || { echo 'slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)'; exit 1; }
  printf 'AccountingStorageType   = accounting_storage/%s\\nMaxArraySize = 5\\n' "${STORAGE:-none}" ;;
*sacctmgr) echo asked >>"$ASKED"; exit 1 ;;
esac
"""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("storage", ["none", "slurmdbd"])
def test_a_site_is_told_also_when_its_accounting_does_not_answer(tmp_path: Path, shell: str, storage: str) -> None:
    """sacctmgr is asked only where there is accounting, and may fail."""
    variables = _fake(tmp_path) | {"STORAGE": storage}
    site = SLURM.read_site(MARK, in_shell(f"set -f -C\n{{ {SLURM.site(MARK)}\n}} 2>&1", shell, variables))
    assert (site.array_max, site.accounting) == (5, storage == "slurmdbd")
    assert (tmp_path / "asked").exists() == (storage == "slurmdbd")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("ask", [SLURM.site, SLURM.capacity], ids=["site", "capacity"])
def test_a_site_that_cannot_be_asked_is_a_failure(tmp_path: Path, shell: str, ask: object) -> None:
    """Its exit code and words come through."""
    assert callable(ask)
    told = in_shell(f"{{ {ask(MARK)}\n}} 2>&1\necho code=$?", shell, _fake(tmp_path) | {"BROKEN": "1"})
    assert told.endswith("code=1\n") and "Unable to contact slurm controller" in told


def _fake(folder: Path) -> dict[str, str]:
    """An environment whose scontrol, sacctmgr and sinfo are stand-ins."""
    for name in ("scontrol", "sacctmgr", "sinfo"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.defpath}", "ASKED": str(folder / "asked")}
