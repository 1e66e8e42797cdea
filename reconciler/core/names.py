"""Deterministic ids: the same thing always has the same name, so a crash can neither lose nor double it.

A job name is `<run id>.<task id>.<attempt>`: unique, computed, and readable in any scheduler's list. Run ids are 12 hex digits
and hold no dot; the attempt is the digits after the last dot; a task id may hold dots (they group).
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple

#: Twelve hex digits are 48 bits: with 100,000 runs of one instance the chance of any collision is 2e-5, and the ledger refuses one.
RUN_ID_LENGTH = 12
TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: A job name is a file name on the far side: 255 bytes at most, less the run id, two dots, the attempt and a suffix of ours.
TASK_ID_LENGTH_MAX = 200
OBJECT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_JOB_NAME = re.compile(r"([0-9a-f]{12})\.([A-Za-z0-9][A-Za-z0-9._-]*)\.([1-9][0-9]{0,8})")


class JobName(NamedTuple):
    """The parts of a job name."""

    run: str
    task: str
    attempt: int


def job_name(run: str, task: str, attempt: int) -> str:
    """The name of one attempt of one task, on every backend."""
    return f"{run}.{task}.{attempt}"


@lru_cache(maxsize=10_000)
def parse_job_name(text: str) -> JobName | None:
    """The parts of `text`, or None when it is not a job name of ours. Never raises: `text` is hostile input."""
    match = _JOB_NAME.fullmatch(text)
    if match is None or len(match[2]) > TASK_ID_LENGTH_MAX:
        return None
    return JobName(match[1], match[2], int(match[3]))


def digest_of(canonical: str) -> str:
    """`sha256:<64 hex>` of a canonical text (see manifest/canonical.py, which writes it with a version tag)."""
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def run_id(instance: str, kind: str, name: str, digest: str, occasion: str, predecessors: int) -> str:
    """The id of the run that `digest` of the object `kind`/`name` owes on `occasion`.

    `predecessors` counts the earlier runs of the same digest and occasion that never started: they do not satisfy it.
    """
    text = "\0".join((instance, kind, name, digest, occasion, str(predecessors)))
    return hashlib.sha256(text.encode()).hexdigest()[:RUN_ID_LENGTH]
