"""The daemon's own settings: the Settings document -> one frozen object with units in its names. Called by daemon.py and the verbs.

What of the Settings may change while the daemon runs (environment, limits) is read again by manifest/assemble.py; the rest holds
until the next start.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reconciler.core.desired import Place
from reconciler.core.env import Layer
from reconciler.core.trigger import Limits
from reconciler.errors import Problem, SettingsError
from reconciler.manifest import schema
from reconciler.manifest.environment import layer_of
from reconciler.manifest.load import Document, Loaded, load_file
from reconciler.manifest.origin import DeleteGuard, guard_of, limits_of
from reconciler.regular import read_regular

INIT = "`reconciler init` writes one"
#: What a status file has and a manifest must not have.
_STATUS = re.compile(rb"^status:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one daemon. All paths are absolute.

    `instance` is part of every run's id. `layer` holds the server's environment rules and groups. `retention_*_s`: how long what
    has ended is kept. `log_format`: auto, console or json.
    """

    instance: str
    place: Place
    folder: Path
    state_dir: Path
    status_dir: Path
    host: str
    port: int
    poll_interval_s: float
    source_interval_s: float
    status_interval_s: float
    layer: Layer
    limits: Limits
    guard: DeleteGuard
    retention_runs_s: float
    retention_events_s: float
    log_format: str
    log_level: str

    @property
    def excluded(self) -> tuple[Path, ...]:
        """What the daemon writes to: never watched and never read as manifests, wherever it lies (rule 12)."""
        return (self.state_dir, self.status_dir)

    @property
    def spool(self) -> Path:
        """Where local backends keep scripts and records of jobs, when their document says nothing else."""
        return self.state_dir / "spool"


def read_settings(folder: Path) -> Settings:
    """The Settings of a trusted folder, from disk. Raises SettingsError as `settings_from` does."""
    loaded = [load_file(path.relative_to(folder).as_posix(), _Read(str(path), data), source="") for path, data in settings_files(folder)]
    return settings_from(loaded, folder)


def settings_files(folder: Path) -> Iterable[tuple[Path, bytes]]:
    """The files of a trusted folder that may hold its Settings, and their bytes, in sorted order.

    Hidden files and folders are left out, as everywhere; so are files that do not name the kind, because reading YAML is slow, and status
    files, because which folder they are in is not known before the Settings are.
    """
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            if name.lower().endswith((".yaml", ".yml")) and not name.startswith("."):
                path = Path(where, name)
                data = None if path.is_symlink() else read_regular(path)  # the daemon follows no link
                if data is not None and b"Settings" in data and not _STATUS.search(data):
                    yield path, data


class _Read(NamedTuple):
    """A file as load_file takes it. `id` is no content's id: it is not remembered."""

    id: str
    data: bytes


def settings_from(loaded: Iterable[Loaded], folder: Path) -> Settings:
    """The Settings of the operator's folder: exactly one document, valid, with usable folders and address.

    Without one there is no default: its name is part of every run's id, so a person must choose it. Raises SettingsError with
    every problem of the Settings (and, when there is none, of files that may hold it), as file:line:column.
    """
    files = tuple(loaded)
    documents = [document for each in files for document in each.documents if document.kind == "Settings"]
    wrong = [problem for each in files for problem in each.problems if problem.subject.startswith("Settings")]
    if len(documents) > 1:
        places = " and ".join(str(document.place) for document in documents)
        message = f"there is more than one Settings: {places}"
        raise SettingsError((*wrong, *(document.problem((), message, "keep one of them") for document in documents)))
    if wrong:
        raise SettingsError(tuple(wrong))
    if not documents:
        raise SettingsError((*_hidden(files), Problem(str(folder), 0, 0, "Settings", "there is no Settings document", INIT)))
    return _settings(documents[0], folder.absolute())


def _settings(document: Document, folder: Path) -> Settings:
    assert isinstance(document.model, schema.Settings)
    spec = document.model.spec
    own = folder / os.path.dirname(document.place.file)
    state_dir, status_dir = _placed(spec.state_dir, own), _placed(spec.status_dir, own)
    problems = [*_folder_problems(document, folder, state_dir, status_dir)]
    host, port, wrong = _address(spec.listen)
    if wrong:
        problems.append(document.problem(("spec", "listen"), wrong, "write address:port, as 127.0.0.1:8765"))
    if problems:
        raise SettingsError(tuple(problems))
    return Settings(
        instance=document.name,
        place=document.place,
        folder=folder,
        state_dir=state_dir,
        status_dir=status_dir,
        host=host,
        port=port,
        poll_interval_s=spec.poll_interval,
        source_interval_s=spec.source_interval,
        status_interval_s=spec.status_interval,
        layer=layer_of("server", spec.env, spec.env_groups),
        limits=limits_of(spec.limits),
        guard=guard_of(spec.limits),
        retention_runs_s=spec.retention.runs,
        retention_events_s=spec.retention.events,
        log_format=spec.log.format,
        log_level=spec.log.level,
    )


def _hidden(files: Sequence[Loaded]) -> Iterable[Problem]:
    """Problems of files that may hold the Settings, when no document of that kind can be seen."""
    return (problem for each in files if each.names_unknown for problem in each.problems)


def _placed(path: str, own: Path) -> Path:
    """`path` as written, from the document's own folder; `~/` is the daemon's home."""
    return Path(os.path.normpath(own / Path(path).expanduser()))


def _folder_problems(document: Document, folder: Path, state_dir: Path, status_dir: Path) -> Iterable[Problem]:
    """Rule 12: what is written must be apart from what is read, and the two written folders from each other."""
    trusted, state, status = folder.resolve(), state_dir.resolve(), status_dir.resolve()
    for name, path in (("state_dir", state), ("status_dir", status)):
        if trusted.is_relative_to(path):
            yield document.problem(("spec", name), f"{name} ({path}) holds the manifests themselves", "give it a folder of its own")
        if path.exists() and not path.is_dir():
            yield document.problem(("spec", name), f"{name} ({path}) is not a folder", "remove what is there, or name another")
    if state.is_relative_to(status) or status.is_relative_to(state):
        yield document.problem(
            ("spec", "status_dir"), f"state_dir ({state}) and status_dir ({status}) lie in each other", "keep them apart"
        )


def _address(listen: str) -> tuple[str, int, str]:
    """(host, port, what is wrong or "") of `127.0.0.1:8765`, `[::1]:8765`, `localhost:0`."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", listen)
    if match is None:
        return "", 0, f"{listen!r} is not an address with a port"
    host, port = match[1].strip("[]"), int(match[2])
    if port > 65535:
        return host, port, f"port {port} does not exist"
    if match[1].startswith("[") or re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host, port, f"{host!r} is not an address"
    return host, port, ""
