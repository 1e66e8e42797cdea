"""The real command in a subprocess, and a folder with a ledger to ask about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.core.desired import Place, Run, Task
from reconciler.core.record import Event, Phase, TaskRecord, TaskState
from reconciler.ledger import Batch, Ledger, NewRun, ObjectRow, RunChange

ALIVE, OLD, SOURCED = "5f0c21d9a7be", "77ab02c4de10", "5fffffffffff"
REPOSITORY = Path(__file__).parents[2]
RUNNING = TaskRecord(TaskState.RUNNING, started=True, started_at=2003.0)
DIGEST = "sha256:" + "9" * 64

SETTINGS = "apiVersion: scripthut/v1\nkind: Settings\nmetadata: {name: lab}\n"
DIAMOND = """\
# what we do every night
apiVersion: scripthut/v1
kind: Workflow
metadata: {name: diamond}   # keep this name
spec:
  tasks:
    - {id: setup, command: "true"}

    # both at a time
    - {id: build.x, command: 'echo "x"', deps: [setup]}
"""


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def reconciler(*arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 60) -> Result:
    """Run the command to its end. Nothing of the caller's terminal or RECONCILER_DIR reaches it."""
    environment = {key: value for key, value in os.environ.items() if key != "RECONCILER_DIR"} | (env or {})
    environment["PYTHONPATH"] = str(REPOSITORY)  # a clone works without being installed
    command = [sys.executable, "-m", "reconciler", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)
    return Result(done.returncode, done.stdout, done.stderr)


def sample_folder(folder: Path) -> Path:
    """A trusted folder and its ledger: `diamond` with an old run and one alive; `econ/nightly`, which comes from the source `econ`."""
    folder.mkdir(exist_ok=True)
    (folder / "settings.yaml").write_text(SETTINGS)
    (folder / "diamond.yaml").write_text(DIAMOND)
    source = "apiVersion: scripthut/v1\nkind: Source\nmetadata: {name: econ}\nspec:\n  path: elsewhere\n"
    (folder / "sources.yaml").write_text(source)
    with_events = Batch(
        new_runs=(
            new_run(OLD, "diamond", 1000.0, {"setup": _ended(0), "build.x": _ended(0)}),
            new_run(ALIVE, "diamond", 2000.0, {"setup": _ended(0), "build.x": RUNNING}),
            new_run(SOURCED, "econ/nightly", 3000.0, {"setup": _ended(2, TaskState.FAILED), "build.x": TaskRecord(TaskState.SKIPPED)}),
        ),
        runs=(
            RunChange(OLD, Phase.SUCCEEDED, True, ended_at=1010.0, core_hours=0.5),
            RunChange(ALIVE, Phase.RUNNING, True),
            RunChange(SOURCED, Phase.FAILED, True, ended_at=3010.0),
        ),
        events=(
            Event(2000.0, "RunCreated", ALIVE, "", "follows 9999"),
            Event(2001.0, "TaskRunning", ALIVE, "setup", ""),
            Event(3001.0, "TaskFailed", SOURCED, "setup", "exit code 2 \x1b[2J"),
            Event(3002.0, "SourceUnreachable", "", "", "no route to https://ada:hunter2@example.org/", "Source/econ"),
        ),
        objects=(
            _object("Workflow", "diamond", "", "diamond.yaml", ("True", "Reconciled", f"run {ALIVE} follows this digest")),
            _object("Workflow", "econ/nightly", "econ", ".hut/nightly.yaml", ("False", "NeedsApproval", "150 runs at once")),
            _object("Source", "econ", "", "sources.yaml", ("False", "Unreachable", "no route to host")),
            _object("Backend", "local", "", "", ("True", "Reconciled", "seen; at most 4 jobs at once")),
        ),
    )
    ledger = Ledger.open(folder / ".state", "lab")
    ledger.save(with_events)
    ledger.close()
    return folder


def new_run(run_id: str, workflow: str, at: float, records: dict[str, TaskRecord]) -> NewRun:
    """A run of two tasks, made at `at`, with what is remembered of each."""
    tasks = (Task("setup", "true"), Task("build.x", "true", needs=("setup",)))
    place = Place("", "diamond.yaml", 2)
    return NewRun(Run(run_id, workflow, f"{DIGEST[:-1]}{int(at) // 1000}", "v1", "", "local", tasks, place, at), records)


def _ended(code: int, state: TaskState = TaskState.SUCCEEDED) -> TaskRecord:
    return TaskRecord(state, started=True, claimed_at=1.0, started_at=2001.0, ended_at=2002.5, exit_code=code, job_id="4711")


def _object(kind: str, name: str, source: str, file: str, ready: tuple[str, str, str]) -> ObjectRow:
    status, reason, message = ready
    said = {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message}]}
    commit = "c" * 40 if source or kind == "Source" else ""
    return ObjectRow(kind, name, source, file, 2, commit, "main@sha1:" + "c" * 40, DIGEST, 1, {}, said, 3000.0)
