"""Logs: one line for each thing that happened, with a name that stays. Set up by the command line, used by everything with I/O.

Promised event names (`event` of a log line, `name` of a recorded event). They are CamelCase, never renamed, never reused:

    DaemonStarted DaemonStopping DaemonStopped    the daemon itself; LookAsked: somebody sent SIGHUP
    LoopSlow                                      one cycle took longer than it should: with its seconds
    ObjectFailed                                  an unexpected exception about one object, with its traceback; the others go on
    RunCreated RunEnded RunCancelled RunDropped   a run was made; all its tasks are final; somebody or a policy ended it
    RunStalled RunSuspended RunResumed            only a person can move it on; held back; let go
    TaskSubmitting TaskQueued TaskRunning         the intent is saved; the backend has it; it runs
    TaskSucceeded TaskFailed TaskLost             final, with the reason; TaskSkipped: something that it needs did not succeed
    TaskCancelling TaskCancelled                  being ended, or its submission revoked; ended so
    TaskWaiting TaskStalled                       to be sent again, under the next name; only a person can move it on
    TasksAppended                                 a generator's file was read
    SubmissionLost                                a submission that never started; sent again under the next name
    LateEvidence                                  something about a final task turned up; it changes nothing
    BackendReachable BackendUnreachable           asked and answered again; could not be asked
    BackendNotOwned                               the far side belongs to another ledger or a newer daemon
    SourceFetched SourceUnreachable SourceRefused a new revision; could not be asked; a person must act
    ManifestProblem ManifestAccepted              a document is wrong, with file:line:column; what was wrong is right again
    ApprovalNeeded GuardHeld                      more runs, cost or removals than one cause may bring without a person
    LedgerUnwritable LedgerWritable StateLost     no intent can be saved, so nothing is sent; it can again; the ledger is gone
    StatusUnwritable StatusWritable               a status file could not be written; it could again

Nothing secret is printed: see `_redact` and printable.py. Text of others (commands, scheduler messages, file names) cannot
steer the terminal: control characters are shown escaped.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, TextIO, cast

import structlog

from reconciler.printable import REDACTED, escape, redact_text


class EventName(StrEnum):
    """The names that the module's docstring promises."""

    DAEMON_STARTED = "DaemonStarted"
    DAEMON_STOPPING = "DaemonStopping"
    DAEMON_STOPPED = "DaemonStopped"
    LOOK_ASKED = "LookAsked"
    LOOP_SLOW = "LoopSlow"
    OBJECT_FAILED = "ObjectFailed"
    RUN_CREATED = "RunCreated"
    RUN_ENDED = "RunEnded"
    RUN_CANCELLED = "RunCancelled"
    RUN_DROPPED = "RunDropped"
    RUN_STALLED = "RunStalled"
    RUN_SUSPENDED = "RunSuspended"
    RUN_RESUMED = "RunResumed"
    TASK_SUBMITTING = "TaskSubmitting"
    TASK_QUEUED = "TaskQueued"
    TASK_RUNNING = "TaskRunning"
    TASK_SUCCEEDED = "TaskSucceeded"
    TASK_FAILED = "TaskFailed"
    TASK_LOST = "TaskLost"
    TASK_SKIPPED = "TaskSkipped"
    TASK_CANCELLING = "TaskCancelling"
    TASK_CANCELLED = "TaskCancelled"
    TASK_WAITING = "TaskWaiting"
    TASK_STALLED = "TaskStalled"
    TASKS_APPENDED = "TasksAppended"
    SUBMISSION_LOST = "SubmissionLost"
    LATE_EVIDENCE = "LateEvidence"
    BACKEND_REACHABLE = "BackendReachable"
    BACKEND_UNREACHABLE = "BackendUnreachable"
    BACKEND_NOT_OWNED = "BackendNotOwned"
    SOURCE_FETCHED = "SourceFetched"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    SOURCE_REFUSED = "SourceRefused"
    MANIFEST_PROBLEM = "ManifestProblem"
    MANIFEST_ACCEPTED = "ManifestAccepted"
    APPROVAL_NEEDED = "ApprovalNeeded"
    GUARD_HELD = "GuardHeld"
    LEDGER_UNWRITABLE = "LedgerUnwritable"
    LEDGER_WRITABLE = "LedgerWritable"
    STATE_LOST = "StateLost"
    STATUS_UNWRITABLE = "StatusUnwritable"
    STATUS_WRITABLE = "StatusWritable"


_SECRET_KEY = re.compile(r"secret|token|passw|authorization|api_?key|private_?key|credential|cookie", re.IGNORECASE)
_ENV_KEY = re.compile(r"(?:^|_)(?:env|environ|environment|parameters)$", re.IGNORECASE)

def _hidden(value: object) -> object:
    """`value` of an environment with the names kept and what they hold gone."""
    if isinstance(value, Mapping):
        return {str(name): REDACTED for name in value}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return {str(item[0]): REDACTED for item in value if isinstance(item, Sequence) and item}
    return REDACTED


def _clean(key: str, value: object) -> object:
    """`value` as it may be printed under `key`; what is not plain data becomes its text."""
    if _SECRET_KEY.search(key):
        return REDACTED
    if _ENV_KEY.search(key):
        return _hidden(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _clean(str(name), item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", item) for item in value]
    return redact_text(str(value))


def _redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The last step before a line is written, so that nothing added on the way escapes it."""
    return {key: _clean(key, value) for key, value in event.items()}


def _escape_all(value: object, keep: str = "") -> object:
    if isinstance(value, str):
        return escape(value, keep)
    if isinstance(value, dict):
        return {escape(str(key)): _escape_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape_all(item) for item in value]
    return value


def _escape(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """For a terminal. A traceback keeps its lines."""
    return {key: _escape_all(value, keep="\n" if key == "exception" else "") for key, value in event.items()}


class _Sink:
    """Where lines go. A full disk or a closed pipe loses lines, and never stops the daemon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return

    def msg(self, message: str) -> None:
        self.write(message + "\n")

    log = debug = info = warning = error = critical = fatal = exception = warn = msg

    def flush(self) -> None:
        """Every write flushes."""


def configure(format: Literal["json", "console"] = "console", level: str = "info", stream: TextIO | None = None) -> None:
    """Set up logs for this process; may be called again. `stream` None: standard error. `level`: a name of `logging`, any case.

    Lines of other packages (asyncio, asyncssh, warnings) take the same way, so they have the same form and the same redaction.
    """
    out = stream if stream is not None else sys.stderr
    severity = logging.getLevelNamesMapping()[level.upper()]
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    last: structlog.typing.Processor
    if format == "json":
        last = structlog.processors.JSONRenderer()
    else:
        steps.append(_escape)
        last = structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
    sink = _Sink(out)
    structlog.configure(
        processors=[*steps, last],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,  # so that a later call of this function counts
    )
    foreign = logging.StreamHandler(cast(TextIO, sink))
    bare = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    foreign.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=steps, processors=[bare, last]))
    logging.basicConfig(handlers=[foreign], level=max(severity, logging.WARNING), force=True)
    logging.captureWarnings(True)


def get_logger(**context: object) -> structlog.typing.FilteringBoundLogger:
    """A logger that adds `context` to each line. Call as `log.info(EventName.RUN_CREATED, run=…)`."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(**cast(dict[str, Any], context)))
