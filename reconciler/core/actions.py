"""What should be done next, as plain data. The controller carries it out, after the plan that wants it has been saved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submit:
    """Send this attempt. Its intent is in the ledger."""

    backend: str
    run: str
    task: str
    job: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Revoke the job's start and, if `kill`, end it when it has started. Without `kill` a started job is left alone."""

    backend: str
    run: str
    task: str
    job: str
    job_id: str
    kill: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read the task file that a generator wrote."""

    backend: str
    run: str
    task: str
    job: str
    path: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Empty the mailbox of this job: its verdict is saved. Never removes a fence."""

    backend: str
    run: str
    task: str
    job: str


Action = Submit | Cancel | Fetch | Forget
