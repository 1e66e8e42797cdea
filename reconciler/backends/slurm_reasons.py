"""Slurm's reason codes in words for a person: what a waiting job waits for, whether it will ever start, and what to do. Pure.

The codes are those of `job_reason_string` in Slurm 22.05 and newer. Codes of limits (`QOSMaxCpuPerUserLimit`, `AssocGrpMemRunMinutes`) are
some hundred, and built of parts; they are read by their parts, so that a new one is still understood. What is not known is shown as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache

_RELEASE = "`scontrol release` lets it go, `scancel` ends it"

#: What the job waits for, and starts by itself when it comes.
_WAITS = {
    "Priority": "for jobs of higher priority",
    "Resources": "for free processors, memory or nodes",
    "Dependency": "for another job that it depends on",
    "BeginTime": "until Slurm may start it: its begin time, or a pause of about two minutes after it was put back into the queue",
    "JobArrayTaskLimit": "for other elements of its array: so many may run at a time",
    "Licenses": "for a licence",
    "Reservation": "for its reservation to begin",
    "ReservationDeleted": "but its reservation was deleted",
    "Cleaning": "for Slurm to clean up after its last start",
    "Prolog": "for the cluster's own preparation to end",
    "NodeDown": "for a node that is down",
    "FrontEndDown": "for a front-end node",
    "PartitionDown": "for its partition, which is down",
    "PartitionInactive": "for its partition, which is inactive",
    "ReqNodeNotAvail": "for a node that it needs and that is reserved, drained or down; an administrator may have to bring it back",
    "SchedDefer": "for the scheduler, which puts off single jobs",
    "None": "for the scheduler to look at it",
    "WaitingForScheduling": "for the scheduler to look at it",
    "BurstBufferResources": "for room in the burst buffer",
    "BurstBufferStageIn": "for its data to be copied into the burst buffer",
    "BurstBufferOperation": "for the burst buffer",
    "PowerNotAvail": "for electric power",
    "PowerReserved": "for electric power",
    "FedJobLock": "for another cluster of the federation",
    "MaxPoweredUpNodes": "for nodes to be powered up",
    "MpiPortsBusy": "for free ports for MPI",
    "QOSUsageThreshold": "for its account to have used less of late (its QOS sets a threshold)",
    "AccountingPolicy": "for room under a limit of its account",
    "SystemFailure": "after a failure of the cluster's own (files, network)",
    "JobLaunchFailure": "after it could not be started on its node",
    "OutOfMemory": "after it ran out of memory",
    "NonZeroExitCode": "after it failed",
    "TimeLimit": "after it reached its time limit",
    "InactiveLimit": "after it was idle for too long",
}

#: What never ends by itself, and the cure.
_NEVER = {
    "DependencyNeverSatisfied": ("the job that it depends on did not end as it had to", "cancel it (`scancel`)"),
    "PartitionTimeLimit": ("its time limit is above that of its partition", "ask for a shorter `time_limit`, or another `partition`"),
    "PartitionNodeLimit": (
        "it asks for more nodes than its partition has or allows, or nodes that it needs are down",
        "ask for fewer `nodes`, or another `partition`",
    ),
    "PartitionConfig": ("its partition does not allow what it asks", "ask for another `partition`, or less time and fewer `nodes`"),
    "BadConstraints": ("no node has what it asks", "change its `constraint`, `gres`, `cpus` or `memory`"),
    "JobHeldUser": ("its owner holds it", _RELEASE),
    "JobHeldAdmin": ("an administrator holds it", "ask the people who run the cluster; `scancel` ends it"),
    "JobHoldMaxRequeue": ("it was put back into the queue too often, and is held", _RELEASE),
    "InvalidAccount": ("its account is not valid", "change `account` and cancel it"),
    "InvalidQOS": ("its QOS is not valid", "change `qos` and cancel it"),
    "QOSNotAllowed": ("its QOS may not be used with its account or partition", "change `qos` and cancel it"),
    "AccountNotAllowed": ("its account may not be used in its partition", "change `account` or `partition` and cancel it"),
    "MaxMemPerLimit": ("it asks for more memory than one node or processor may have", "ask for less `memory`"),
    "DeadLine": ("it cannot end before its deadline any more", "cancel it (`scancel`)"),
    "AssociationTimeLimit": ("its time limit is above that of its account", "ask for a shorter `time_limit`"),
    "QOSTimeLimit": ("its time limit is above that of its QOS", "ask for a shorter `time_limit`, or another `qos`"),
}
#: Sentences that Slurm writes instead of a code, by a piece of each.
_SENTENCES = {
    "launch failed requeued held": (
        "it could not be started on its node (prolog, files, credentials), was put back into the queue, and is held",
        "ask the people who run the cluster why, then `scontrol release` or `scancel` it",
    ),
    "job requeued in held state": ("it was put back into the queue and is held", _RELEASE),
    "job requeued in special exit state": (
        "it ended in a way that its site marks, was put back into the queue, and is held",
        _RELEASE,
    ),
    "burst buffer/": ("the burst buffer cannot do what it asks", "read the words of Slurm, and cancel it"),
}

#: Of an ended job, what says more than its state.
_ENDS = {
    "DependencyNeverSatisfied": "the job that it depended on did not end as it had to",
    "JobLaunchFailure": "it could not be started on its node",
    "SystemFailure": "the cluster itself failed (files, network)",
    "InactiveLimit": "it was idle for too long",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "BadConstraints": "no node has what it asks",
    "AssociationTimeLimit": "its account has used up its time",
    "QOSTimeLimit": "its QOS has used up its time",
    "ReservationDeleted": "its reservation was deleted",
}

#: Limits, by the parts of their names. Of one job alone: it never starts. Of all jobs of somebody: it waits for room.
_LIMIT = re.compile(
    r"(?P<whose>QOS|Association|Assoc)?(?P<kind>Grp|Max|Min|Job|Resource)(?P<what>[A-Za-z]*?)"
    r"(?P<per>PerJob|PerNode|PerUser|PerAccount)?(?:Limit|NotSatisfied)?"
)
_WHOSE = {"QOS": "its QOS", "Assoc": "its account", "Association": "its account"}
_WHAT = {
    "Cpu": "processors", "CPU": "processors", "Mem": "memory", "Memory": "memory", "Node": "nodes", "Jobs": "jobs", "SubmitJobs": "jobs",
    "SubmitJob": "jobs", "Job": "jobs", "Wall": "time", "WallDuration": "time", "Billing": "billing units", "BB": "burst buffer",
    "GRES": "generic resources", "License": "licences", "Energy": "energy",
}  # fmt: skip


@lru_cache(maxsize=1000)  # a queue of 10,000 rows has a handful of reasons
def waiting(reason: str) -> str:
    """Why a waiting job waits, as a sentence without its subject: `waits for jobs of higher priority (Slurm: Priority)`.

    One that will not start without somebody's doing begins with `will not start by itself` and ends with what to do.
    """
    spaced = reason.replace("_", " ")  # scontrol writes a sentence with underscores
    code = spaced.partition(",")[0].strip()
    never = _NEVER.get(code) or next((words for piece, words in _SENTENCES.items() if piece in spaced), None)
    if never is not None:
        return _never(reason, *never)
    if code in _WAITS:
        return f"waits {_WAITS[code]} (Slurm: {reason})"
    return _limit(reason, code) or f"waits (Slurm: {reason})"


def _never(reason: str, why: str, cure: str) -> str:
    return f"will not start by itself: {why} (Slurm: {reason}); {cure}"


def _limit(reason: str, code: str) -> str:
    """The sentence for a code that names a limit; "" for any other."""
    found = _LIMIT.fullmatch(code)
    if found is None or (found["whose"] is None and found["per"] != "PerAccount"):
        return ""
    minutes = "Minutes" in found["what"]
    what = found["what"].replace("Run", "").removesuffix("Minutes")
    named = _WHAT.get(what, what) + (" over time" if minutes else "")
    whose = _WHOSE.get(found["whose"] or "", "its account")
    if found["kind"] == "Min":
        return _never(reason, f"it asks for less than {whose} wants of a job ({named})", "ask for more, or change `qos`")
    alone = found["kind"] == "Max" and (found["per"] in {"PerJob", "PerNode"} or what.startswith("WallDuration"))
    if alone:
        return _never(reason, f"it asks for more than {whose} allows one job ({named})", "ask for less, or change `account` or `qos`")
    return f"waits for room under a limit of {whose}{f' ({named})' if named.strip() else ''} (Slurm: {reason})"


def ending(state_words: str, reason: str) -> str:
    """Why a job ended: the words for its state, and Slurm's reason when it says more. A job that ended while it waited keeps the reason
    for which it waited, which says nothing of its end."""
    code = reason.strip()
    if code in _ENDS:
        return f"{state_words}: {_ENDS[code]} (Slurm: {code})"
    waited = code in {"", "(null)"} or code in _WAITS or not waiting(code).startswith("waits (Slurm:")
    return state_words if waited else f"{state_words} (Slurm: {code})"
