"""What sbatch said is told apart as it was recorded; in the shell too, which is where it is decided."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.backends.slurm_answers import ACCEPT, ANSWERS
from reconciler.core.env import quote
from reconciler.core.observed import Answer

RECORDED = [json.loads(line) for line in (Path(__file__).parent / "recorded/slurm/answers.jsonl").read_text().splitlines()]
SHELLS = [shell for shell in ("sh", "bash", "dash", "busybox") if shutil.which(shell)]
POLICY = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


def in_shell(shell: str, out: str, code: int) -> tuple[str, str]:
    """The answer and the id, as the program on the login node finds them: `set -f -C -u`, builtins only (there is no PATH)."""
    cases = "".join(f"*{quote(piece)}*) class={answer.value} ;;\n" for piece, answer in ANSWERS)
    program = f"""set -f -C -u
PATH=/nonexistent; out={quote(out.rstrip(chr(10)))} id=
if [ {code} = 0 ]; then
{ACCEPT}
fi
class=unknown
if [ -n "$id" ]; then class=accepted; elif [ {code} != 0 ]; then case $out in
{cases}esac; fi
echo "$class $id"
"""
    command = [shutil.which(shell) or shell, *(["sh"] if shell == "busybox" else [])]
    told = subprocess.run(command, input=program, capture_output=True, text=True, check=True, timeout=20)
    assert told.stderr == ""
    answer, _, job_id = told.stdout.strip("\n").partition(" ")
    return answer, job_id


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["name"])
def test_a_recorded_answer_is_what_it_was(shell: str, recorded: dict[str, str | int]) -> None:
    """Every text that a real sbatch printed means what was then seen of the job."""
    answer, job_id = in_shell(shell, str(recorded["out"]), int(recorded["code"]))
    assert answer == recorded["means"]
    assert job_id == (str(recorded["out"]).split()[-1] if answer == "accepted" else "")


@pytest.mark.parametrize(
    "words",
    [
        "Socket timed out on send/recv operation",
        "Zero Bytes were transmitted or received",
        "Connection reset by peer",
        "Unexpected missing socket error",
        "Transport endpoint is not connected",
        "Unable to contact slurm controller (send failure)",
        "Unable to contact slurm controller (receive failure)",
        "Unable to contact slurm controller (shutdown failure)",
        "Protocol authentication error",
        "Unspecified error",
        "Slurm internal error, contact system administrator",
        "Message receive failure",
        "a text of a newer Slurm",
    ],
)
def test_what_proves_nothing_is_unknown(words: str) -> None:
    """The request may have arrived: never sent again blindly."""
    assert in_shell("sh", f"sbatch: error: Batch job submission failed: {words}", 1)[0] == "unknown"


@pytest.mark.parametrize(
    ("detail", "means"),
    [
        ("AssocMaxSubmitJobLimit", "limit"),
        ("AssocGrpSubmitJobsLimit", "limit"),
        ("QOSMaxSubmitJobPerUserLimit", "limit"),
        ("QOSGrpSubmitJobsLimit", "limit"),
        ("MaxSubmitJobsPerAccount", "limit"),
        ("QOSMaxWallDurationPerJobLimit", "refused"),
        ("QOSMaxCpuPerUserLimit", "refused"),
        ("QOSMinCpuNotSatisfied", "refused"),
        ("QOSGrpMemLimit", "refused"),
        ("AssocMaxCpuPerJobLimit", "refused"),
        ("MaxCpuPerAccount", "refused"),
        ("", "limit"),
    ],
)
def test_one_sentence_of_slurm_covers_a_full_queue_and_a_job_that_is_too_big(detail: str, means: str) -> None:
    """The line before it tells which; without it, to wait is the smaller mistake."""
    told = f"sbatch: error: {detail}\n" if detail else ""
    assert in_shell("sh", f"{told}sbatch: error: {POLICY}\n", 1)[0] == means


def test_the_table_holds_only_what_is_proven() -> None:
    """Neither ACCEPTED nor UNKNOWN can be read from words, and no piece is there twice with two meanings."""
    assert {answer for _, answer in ANSWERS} == {Answer.REFUSED, Answer.LIMIT, Answer.TRANSIENT}
    assert len(dict(ANSWERS)) == len(ANSWERS)
    assert all(len(piece) > 10 and "\n" not in piece for piece, _ in ANSWERS)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("out", "job_id"),
    [
        ("123", "123"),
        ("123;cluster-1", "123"),
        ("sbatch: error: sleeping and retrying\n4294967295", "4294967295"),
        ("4\nsbatch: lua: welcome, 17 people before you", "4"),
        ("Submitted batch job 77", "77"),
        ("Submitted batch job 77 on cluster far", "77"),
        ("12\n12", "12"),
        ("12\n13", ""),
        ("12\n13\n12", ""),
        ("", ""),
        ("0", ""),
        ("-5", ""),
        ("12 13", ""),
        ("12x", ""),
        ("012", ""),
        ("99999999999", ""),
        (";cluster", ""),
        ("job 12", ""),
        ("*\n?\n[a-z]", ""),
        ("Job 28 to start at 4260123365 using 1 processors on nodes n1 in partition main", ""),
    ],
)
def test_the_id_is_a_line_of_its_own_or_nothing(shell: str, out: str, job_id: str) -> None:
    """No number out of a sentence is taken for an id, and of two none."""
    assert in_shell(shell, out, 0)[1] == job_id
