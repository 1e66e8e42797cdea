"""Slurm's reasons in words: what is waited for, what never comes, and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.slurm_reasons import ending, waiting

NEVER = "will not start by itself: "


def listed(text: str) -> list[str]:
    return text.split()


#: All that `job_reason_string` of 22.05 can print (the list is in its library), but limits, which are below.
CODES = listed(
    "None Priority Dependency Resources PartitionNodeLimit PartitionTimeLimit PartitionDown PartitionInactive JobHeldAdmin JobHeldUser "
    "BeginTime Licenses AssociationJobLimit AssociationResourceLimit AssociationTimeLimit Reservation ReqNodeNotAvail FrontEndDown "
    "SchedDefer NodeDown BadConstraints SystemFailure JobLaunchFailure NonZeroExitCode TimeLimit InactiveLimit InvalidAccount InvalidQOS "
    "QOSUsageThreshold QOSJobLimit QOSResourceLimit QOSTimeLimit Cleaning Prolog QOSNotAllowed AccountNotAllowed DependencyNeverSatisfied "
    "JobHoldMaxRequeue JobArrayTaskLimit BurstBufferResources BurstBufferStageIn BurstBufferOperation PowerNotAvail PowerReserved "
    "ReservationDeleted DeadLine PartitionConfig AccountingPolicy FedJobLock OutOfMemory MaxMemPerLimit"
)
LIMITS_OF_ALL = listed(
    "QOSGrpCpuLimit QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit QOSGrpJobsLimit QOSGrpMemLimit QOSGrpNodeLimit QOSGrpSubmitJobsLimit "
    "QOSGrpWallLimit QOSMaxCpuPerUserLimit QOSMaxJobsPerUserLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit QOSMaxMemoryPerUser "
    "AssocGrpCpuLimit AssocGrpJobsLimit AssocGrpMemRunMinutes AssocGrpGRES AssocGrpBB AssocMaxJobsLimit AssocMaxSubmitJobLimit "
    "MaxCpuPerAccount MaxJobsPerAccount MaxSubmitJobsPerAccount QOSJobLimit AssociationResourceLimit"
)
LIMITS_OF_ONE = listed(
    "AssocMaxCpuPerJobLimit AssocMaxCpuMinutesPerJobLimit AssocMaxNodePerJobLimit AssocMaxWallDurationPerJobLimit AssocMaxMemPerNode "
    "QOSMaxCpuPerJobLimit QOSMaxWallDurationPerJobLimit QOSMaxGRESPerJob QOSMaxMemoryPerNode QOSMinCpuNotSatisfied QOSMinGRES"
)


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_slurm_is_told_in_words(code: str) -> None:
    """No code is handed on bare, and each is named."""
    told = waiting(code)
    assert not told.startswith("waits (Slurm:")
    assert f"(Slurm: {code})" in told


@pytest.mark.parametrize(
    "code",
    listed(
        "DependencyNeverSatisfied PartitionTimeLimit PartitionNodeLimit PartitionConfig BadConstraints JobHeldUser JobHeldAdmin "
        "JobHoldMaxRequeue InvalidAccount InvalidQOS"
    ),
)
def test_what_never_comes_is_said_to_with_a_cure(code: str) -> None:
    """A job that waits for ever begins with the same words, and ends with what to do."""
    assert waiting(code).startswith(NEVER)
    assert waiting(code).partition("); ")[2]


@pytest.mark.parametrize("code", LIMITS_OF_ONE)
def test_a_limit_that_one_job_breaks_is_never_met(code: str) -> None:
    """Asking for more than one job may have is no waiting."""
    assert waiting(code).startswith(NEVER)


@pytest.mark.parametrize("code", LIMITS_OF_ALL)
def test_a_limit_on_many_jobs_is_waited_for(code: str) -> None:
    """Room under a limit of an account, a QOS or a user comes back."""
    assert waiting(code).startswith("waits for room under a limit ")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Priority", "waits for jobs of higher priority (Slurm: Priority)"),
        (
            "ReqNodeNotAvail, UnavailableNodes:n4",
            "waits for a node that it needs and that is reserved, drained or down; an administrator may have to bring it back "
            "(Slurm: ReqNodeNotAvail, UnavailableNodes:n4)",
        ),
        (
            "AssocMaxWallDurationPerJobLimit",
            "will not start by itself: it asks for more than its account allows one job (time) "
            "(Slurm: AssocMaxWallDurationPerJobLimit); ask for less, or change `account` or `qos`",
        ),
        ("QOSGrpMemLimit", "waits for room under a limit of its QOS (memory) (Slurm: QOSGrpMemLimit)"),
        ("ANewReason", "waits (Slurm: ANewReason)"),
    ],
)
def test_the_words(reason: str, told: str) -> None:
    """Some sentences, whole."""
    assert waiting(reason) == told


@pytest.mark.parametrize("reason", ["launch failed requeued held", "launch_failed_requeued_held", "job requeued in held state"])
def test_a_sentence_of_slurm_is_understood_however_it_is_written(reason: str) -> None:
    """squeue writes it with blanks, scontrol with underscores."""
    assert waiting(reason).startswith(NEVER)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "DependencyNeverSatisfied",
            "was cancelled: the job that it depended on did not end as it had to (Slurm: DependencyNeverSatisfied)",
        ),
        ("JobHeldUser", "was cancelled"),
        ("Priority", "was cancelled"),
        ("ReqNodeNotAvail, UnavailableNodes:n4", "was cancelled"),
        ("QOSGrpMemLimit", "was cancelled"),
        ("", "was cancelled"),
        ("None", "was cancelled"),
        ("out of tape", "was cancelled (Slurm: out of tape)"),
    ],
)
def test_an_end_is_not_put_down_to_what_the_job_once_waited_for(reason: str, told: str) -> None:
    """A job cancelled while it waited keeps its reason for waiting."""
    assert ending("was cancelled", reason) == told


@given(st.text())
def test_no_reason_makes_it_fail(reason: str) -> None:
    """Whatever the reason, there are words, and it is in them."""
    assert reason in waiting(reason)
    assert ending("failed", reason).startswith("failed")
