"""The files that `init` and `demo` write. Text only; each is a manifest that `reconciler validate` accepts (the tests say so)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reconciler.errors import ReconcilerError

_SETTINGS = """\
# The daemon's own settings: exactly one document of this kind. Paths are relative to this file.
apiVersion: scripthut/v1
kind: Settings
metadata:
  name: {instance}   # the instance: part of every run's id and job's folder, so choose it once
spec:
  state_dir: .state    # ledger, logs of jobs; on a disk of this machine, never under version control
  status_dir: status   # YAML files that say how everything is; written again whenever deleted
  # poll_interval: 10s
  # source_interval: 1m
  # limits: {{runs_per_commit: 100}}   # more runs than this from one commit wait for a person's `approve:`
"""

_SOURCES = """\
# Where more manifests come from. Take the marks away to follow a repository: every `.hut/**/*.yaml` in it is read, and what it
# declares is called `<name of the source>/<name>`.
#
# ---
# apiVersion: scripthut/v1
# kind: Source
# metadata: {name: analysis}
# spec:
#   git: {url: "https://example.org/team/analysis.git", branch: main, interval: 30s}
#   backend: local
"""

_HELLO = """\
# Runs once for each change of what it does: a comment or a title is no such change, a command is.
apiVersion: scripthut/v1
kind: Workflow
metadata: {name: hello}
spec:
  title: Say hello, twice, then count
  tasks:
    - {id: say.first,  command: echo hello, memory: 100M, time_limit: "0:01:00"}
    - {id: say.second, command: echo hello again, memory: 100M, time_limit: "0:01:00"}
    - {id: count, command: "echo both were said", deps: ["say.*"], memory: 100M, time_limit: "0:01:00"}
"""

_DIAMOND = """\
# A diamond: setup, then two builds at a time, then what needs both.
apiVersion: scripthut/v1
kind: Workflow
metadata: {name: diamond}
spec:
  title: The smallest workflow that has everything
  tasks:
    - {id: setup,   command: "echo preparing; sleep 0.3", memory: 100M, time_limit: "0:01:00"}
    - {id: build.x, command: "echo building x; sleep 0.6", deps: [setup], memory: 100M, time_limit: "0:01:00"}
    - {id: build.y, command: "echo building y; sleep 0.9", deps: [setup], memory: 100M, time_limit: "0:01:00"}
    - {id: merge,   command: "echo all done", deps: ["build.*"], memory: 100M, time_limit: "0:01:00"}
"""

_IGNORED = "# what the daemon writes\n.state/\nstatus/\n"

STARTER: Mapping[str, str] = {
    "settings.yaml": _SETTINGS.format(instance="main"),
    "sources.yaml": _SOURCES,
    "workflows/hello.yaml": _HELLO,
    ".gitignore": _IGNORED,
}
DEMO: Mapping[str, str] = {"settings.yaml": _SETTINGS.format(instance="demo"), "diamond.yaml": _DIAMOND, ".gitignore": _IGNORED}


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write `files` under `folder`, which is made if needed. Raises ReconcilerError, and writes nothing, when one is there already."""
    there = [name for name in files if (folder / name).exists() or (folder / name).is_symlink()]
    if there:
        raise ReconcilerError(f"{folder} has {', '.join(there)} already; nothing was written (name another folder)")
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ReconcilerError(f"{folder} cannot be written: {error.strerror}") from error
