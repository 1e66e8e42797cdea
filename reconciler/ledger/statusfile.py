"""Status files of runs, read back: the only place that does, for recovery.py alone. Everything in them may have been edited.

A file is read in three parts, because the rows of a large run would take a YAML parser minutes: `metadata` and `spec` as YAML, of
`status` the lines that hold one word, and the rows of tasks as the JSON they were written as.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from reconciler.core.desired import Cause, Place, Run, Task
from reconciler.core.names import TASK_ID, TASK_ID_LENGTH_MAX, run_id
from reconciler.core.record import Phase, TaskRecord, TaskState
from reconciler.ledger.rows import StoredRun
from reconciler.yamlfile import parse

#: A run of 100,000 tasks has some 25 MB.
FILE_BYTES_MAX = 100_000_000
#: Runs of one digest that never started; each takes a number in the ids of its successors.
_PREDECESSORS_TRIED = 100
_RUN_FILE = re.compile(r"([0-9a-f]{12})\.yaml")
_WORD = re.compile(r"  (phase|ended_at|cancelled|dropped|core_hours): (.+)")
_ROW = re.compile(r'    ([A-Za-z0-9._-]+|"[^"\\]+"): (\{.*\})')
_TASKS = "\n  tasks:\n"


@dataclass(frozen=True, slots=True)
class StatusFile:
    """What one file says. `stored` None: nothing of this instance. Its run has no workflow when that was not believed."""

    stored: StoredRun | None
    problems: tuple[str, ...] = ()


def is_run_of(instance: str, run: Run) -> bool:
    """Whether the id of `run` is the hash of what the run says that it is of."""
    tried = range(_PREDECESSORS_TRIED)
    return any(run_id(instance, "Workflow", run.workflow, run.digest, run.occasion, number) == run.id for number in tried)


def read_status_files(status_dir: Path, instance: str) -> Iterator[StatusFile]:
    """The files of runs of `instance`, in the order of their ids. Files of other instances are skipped."""
    folder = status_dir / "run"
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if match := _RUN_FILE.fullmatch(path.name):
            yield _read(path, match[1], instance)


def _read(path: Path, run_id_of_file: str, instance: str) -> StatusFile:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > FILE_BYTES_MAX:
            return _only_id(run_id_of_file, f"{path}: it is not a file that was written here; only the run's id is believed")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return _only_id(run_id_of_file, f"{path}: it cannot be read ({error}); only the run's id is believed")
    head, _, status = text.partition("\nstatus:\n")
    document = _head(head, path)
    metadata, spec = document.get("metadata"), document.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict) or document.get("kind") != "Run":
        return _only_id(run_id_of_file, f"{path}: it was edited or cut; only the run's id is believed")
    if metadata.get("instance") != instance:
        return StatusFile(None)
    problems: list[str] = []
    run = _run(run_id_of_file, spec)
    if metadata.get("name") != run.id or not is_run_of(instance, run):
        problems.append(f"{path}: the id is not that of its workflow, digest and occasion, so it was edited; only the id is believed")
        run = nameless(run.id)
    tasks, records = _tasks(status, path, problems)
    words = _words(status)
    phase = words.get("phase", "")
    stored = StoredRun(
        run=replace(run, tasks=tasks),
        records=records,
        phase=Phase(phase) if phase in set(Phase) else Phase.WAITING,
        begun=True,  # should it not have begun, it is better not to run than to run twice
        cancelled=words.get("cancelled", ""),
        dropped=words.get("dropped", ""),
        ended_at=_seconds(words.get("ended_at", "")) or None,
    )
    return StatusFile(stored, tuple(problems))


def nameless(run: str) -> Run:
    """A run of which nothing but the id is believed."""
    return Run(run, "", "", "", "", "", (), Place("", "", 0), 0.0)


def _only_id(run: str, problem: str) -> StatusFile:
    return StatusFile(StoredRun(nameless(run), {}, Phase.WAITING, True), (problem,))


def _head(text: str, path: Path) -> Mapping[str, object]:
    """`metadata` and `spec`; empty when it is not YAML any more."""
    parsed = parse(text.encode(), str(path))
    if parsed.problems or len(parsed.documents) != 1:
        return {}
    data = parsed.documents[0].data
    return data if isinstance(data, dict) else {}


def _run(run: str, spec: Mapping[str, object]) -> Run:
    def word(key: str) -> str:
        return _text(spec.get(key))

    line = spec.get("line")
    place = Place(word("source"), word("file"), line if isinstance(line, int) else 0, word("commit"), word("revision"))
    created_at = _seconds(word("created_at"))
    identity = (run, word("workflow"), word("digest"), "", word("occasion"), word("backend"))
    return Run(*identity, (), place, created_at, rerun=word("rerun"), title=word("title"))


def _words(status: str) -> Mapping[str, str]:
    """The lines of `status` that hold one word or text."""
    head = status.partition(_TASKS)[0]
    found = {}
    for line in head.splitlines():
        if match := _WORD.fullmatch(line):
            found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(word: str) -> str:
    if not word.startswith('"'):
        return word
    try:
        return _text(json.loads(word))
    except ValueError:
        return ""


def _tasks(status: str, path: Path, problems: list[str]) -> tuple[tuple[Task, ...], dict[str, TaskRecord]]:
    """Stubs of the tasks, without commands, and what their rows say. A row that was edited out of shape costs only itself."""
    records: dict[str, TaskRecord] = {}
    tasks: dict[str, Task] = {}
    broken = 0
    for line in f"\n{status}".partition(_TASKS)[2].splitlines():
        match = _ROW.fullmatch(line)
        task = match[1].strip('"') if match else ""
        try:
            if match is None or not TASK_ID.fullmatch(task) or len(task) > TASK_ID_LENGTH_MAX:
                raise ValueError(line)
            row = json.loads(match[2])
            records[task] = _record(row)
            tasks[task] = Task(task, "", backend=_text(row.get("backend")))
        except (ValueError, KeyError, TypeError, RecursionError):
            broken += 1
    if broken:
        problems.append(f"{path}: {broken} of its tasks cannot be read; of these only what backends hold is believed")
    return tuple(tasks.values()), records


def _record(row: Mapping[str, object]) -> TaskRecord:
    """Raises ValueError, KeyError or TypeError for a row that was never written so."""
    attempt, exit_code, cause = row["attempt"], row.get("exit_code"), row.get("cause")
    if not isinstance(attempt, int) or not 0 < attempt < 10**9 or not (exit_code is None or isinstance(exit_code, int)):
        raise ValueError(f"attempt {attempt!r}, exit code {exit_code!r}")
    claimed_at, started_at, ended_at = (_seconds(_text(row.get(key))) for key in ("submitted_at", "started_at", "ended_at"))
    return TaskRecord(
        state=TaskState(str(row["state"])),
        attempt=attempt,
        since=ended_at or started_at or claimed_at,
        reason=_text(row.get("reason")),
        cause=None if cause is None else Cause(str(cause)),
        job_id=_text(row.get("job")),
        started=started_at > 0,
        claimed_at=claimed_at,
        started_at=started_at,
        ended_at=ended_at,
        exit_code=exit_code,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _seconds(text: str) -> float:
    """The inverse of clock.rfc3339; 0.0 for what is no time."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
