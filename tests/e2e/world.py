"""A real daemon on a real folder, for end-to-end tests: started, killed and asked as a user would, through the command line.

Nothing of the package is imported here, so what is tested is what is shipped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS = """\
apiVersion: scripthut/v1
kind: Settings
metadata: {{name: {instance}}}
spec:
  state_dir: {state}
  status_dir: {status}
---
apiVersion: scripthut/v1
kind: Backend
metadata: {{name: local}}
spec: {{type: local, max_concurrent: {slots}, absence_grace: {grace}}}
"""


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = 30.0) -> Any:
    """The first true value of `condition`, asked again and again until the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class World:
    """One trusted folder with its state and status beside it, and the daemon that follows it."""

    def __init__(self, root: Path, slots: int = 4, grace: str = "300ms", instance: str = "test") -> None:
        self.root = root
        self.folder = root / "manifests"
        self.state = root / "state"
        self.status = root / "status"
        self.log = root / "daemon.log"
        self.folder.mkdir(parents=True, exist_ok=True)
        text = SETTINGS.format(instance=instance, state=self.state, status=self.status, slots=slots, grace=grace)
        (self.folder / "settings.yaml").write_text(text)
        self.daemon: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> Path:
        """Write a manifest the way an editor does: to a temporary name, then renamed."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name("." + path.name + ".tmp")
        temporary.write_text(text)
        temporary.replace(path)
        return path

    def start(self, *extra: str) -> subprocess.Popen[bytes]:
        """Start the daemon."""
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "reconciler", "run", str(self.folder), *extra],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env(),
            )
        return self.daemon

    def stop(self, sig: signal.Signals = signal.SIGTERM, deadline_s: float = 10.0) -> int:
        """Send a signal to the daemon and wait for its end. Returns its exit code."""
        assert self.daemon is not None
        if self.daemon.poll() is None:
            self.daemon.send_signal(sig)
        code = self.daemon.wait(deadline_s)
        self.daemon = None
        return code

    def kill(self) -> None:
        """kill -9, as the out-of-memory killer does it."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def env(self) -> dict[str, str]:
        return {**os.environ, "PYTHONWARNINGS": "error::ResourceWarning", "RECONCILER_DIR": str(self.folder)}

    def call(self, *words: str, deadline_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one verb of the command line."""
        command = [sys.executable, "-m", "reconciler", *words]
        return subprocess.run(command, env=self.env(), capture_output=True, text=True, timeout=deadline_s, check=False)

    def get(self, *words: str) -> Any:
        """What `get … --json` prints, parsed."""
        answer = self.call("get", *words, "--json")
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first, read from the ledger as any other program may: in the daemon's absence too."""
        import sqlite3

        path = self.state / "ledger.sqlite3"
        if not path.exists():
            return []
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute("SELECT * FROM runs ORDER BY created_at, id")]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "locked" in str(error):
                return []
            raise
        finally:
            connection.close()

    def ended(self, count: int) -> list[dict[str, Any]] | None:
        """The runs, once there are `count` and all of them have ended."""
        runs = self.runs()
        done = [run for run in runs if run["phase"] in ("Succeeded", "Failed", "Cancelled")]
        return runs if len(runs) == count == len(done) else None

    def text(self) -> str:
        """What the daemon has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def workflow(name: str, tasks: str, **fields: str) -> str:
    """A Workflow manifest. `tasks` is YAML of the list, one task a line."""
    spec = "".join(f"  {key}: {value}\n" for key, value in fields.items())
    rows = "".join(f"    {line}\n" for line in tasks.strip().splitlines())
    return f"apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {{name: {name}}}\nspec:\n{spec}  tasks:\n{rows}"
