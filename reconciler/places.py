"""Where things of this machine are made: sources and backends, each from its document. Called by daemon.py and consult.py.

With daemon.py the only module that names concrete classes. One that brings much with it (git, ssh) is imported when the first of its
kind is made: a folder that has none of it must not pay for it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from reconciler.aside import aside
from reconciler.backends.base import Backend, Cleaner, Inspector
from reconciler.backends.dialect import Dialect
from reconciler.backends.local import LocalBackend
from reconciler.backends.marks import Owner
from reconciler.config import Settings
from reconciler.core.desired import BackendSpec, Place
from reconciler.core.names import RUN_ID_LENGTH
from reconciler.core.observed import JobFact
from reconciler.hosts.base import Host
from reconciler.manifest.assemble import Site
from reconciler.manifest.origin import SourceSpec
from reconciler.manifest.schema_backend import ACCEPT_NEW
from reconciler.sources.base import Source
from reconciler.sources.folder import FolderSource
from reconciler.sources.watch import Watcher

#: As whom a spool is read by a verb: owns nothing, and everything that would change something refuses it.
NOBODY = Owner("nobody", 0)
#: What is read of the trusted folder. Hidden files and folders are left out.
TRUSTED_INCLUDE = ("**/*.yaml", "**/*.yml", "*.yaml", "*.yml", ".hut/**/*.yaml", ".hut/workflows/*.json")

class Works(Backend, Inspector, Cleaner, Protocol):
    """Everything that may be asked of a place where jobs run."""


class Left(Protocol):
    """What a place holds about one job name, as each of them tells it. `fact` None: claimed at most, and nothing of it lives."""

    @property
    def job(self) -> str: ...

    @property
    def claimed(self) -> bool: ...

    @property
    def fact(self) -> JobFact | None: ...


@dataclass(frozen=True, slots=True)
class Station:
    """A backend, and what is asked of it beside its jobs: the same words for one of this machine and one that is far away.

    `where` names the folder of this instance there, for people. `own` takes it; raises NotOwner and Unreachable. `owner_there` and `left`
    need no ownership and change nothing; they raise Unreachable or OSError. `log` is where a job's standard output is, for people.
    `user` is whose jobs are run there, as far as the document tells: an ssh config may know better.
    """

    spec: BackendSpec
    works: Works
    where: str
    own: Callable[[], Awaitable[None]]
    owner_there: Callable[[], Awaitable[Owner | None]]
    left: Callable[[], Awaitable[Sequence[Left]]]
    close: Callable[[], Awaitable[None]]
    log: Callable[[str], str]
    user: str


Changed = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where things of this machine are made. `watcher` is one for the whole process."""

    settings: Settings
    watcher: Watcher
    mirrors: Path  # where remote git sources are fetched to

    def trusted(self) -> Source:
        """The operator's own folder."""
        return FolderSource("trusted folder", self.settings.folder, TRUSTED_INCLUDE, self.settings.excluded, self.watcher)

    def source(self, spec: SourceSpec) -> Source:
        """A Source, from its document. Raises SourceRefused for one that can never be looked at."""
        if not spec.is_git:
            return FolderSource(spec.name, Path(spec.path).expanduser(), spec.include, self.settings.excluded, self.watcher)
        from reconciler.sources.git import GitSource, GitSpec

        where = GitSpec(
            url=spec.url,
            branch=spec.branch,
            tag=spec.tag,
            commit=spec.commit,
            deploy_key=_path(spec.deploy_key),
            known_hosts=_path(spec.known_hosts),
            interval_s=spec.interval_s or self.settings.source_interval_s,
            timeout_s=spec.timeout_s,
        )
        return GitSource(spec.name, where, spec.include, self.mirrors, self.watcher)

    def backend(self, spec: BackendSpec, owner: Owner, changed: Changed) -> Station:
        """A backend, from its document. Nothing is asked of it yet. Other types than these are refused by their model."""
        return self._slurm(spec, owner, changed) if spec.type == "slurm" else self._local(spec, owner, changed)

    def _local(self, spec: BackendSpec, owner: Owner, changed: Changed) -> Station:
        spool = self.spool(spec)
        backend = LocalBackend(spec.name, spool, owner, changed)

        async def close() -> None:
            backend.close()

        return Station(
            spec=spec,
            works=backend,
            where=str(spool),
            own=partial(aside, backend.own),
            owner_there=partial(aside, backend.owner_there),
            left=partial(aside, backend.traces),
            close=close,
            log=lambda job: str(spool / "runs" / job[:RUN_ID_LENGTH] / job / "out"),
            user=_me(),
        )

    def _slurm(self, spec: BackendSpec, owner: Owner, changed: Changed) -> Station:
        from reconciler.backends.slurm import Slurm

        options = spec.options
        dialect = Slurm(
            partition_map={str(name): str(real) for name, real in _mapping(options, "partition_map").items()},
            default_partition=_text(options, "default_partition"),
            account=_text(options, "account"),
            scheduler_args=_texts(options, "scheduler_args"),
        )
        return self._cluster(spec, dialect, owner, changed)

    def _cluster(self, spec: BackendSpec, dialect: Dialect, owner: Owner, changed: Changed) -> Station:
        from reconciler.backends.cluster import ClusterBackend, ClusterPlace

        options, host = spec.options, _host(spec)
        place = ClusterPlace(
            spool=_text(options, "spool"),
            instance=self.settings.instance,
            array=_text(options, "array"),
            login_shell=bool(options.get("login_shell")),
            poll_min_s=_number(options, "poll_min_s"),
            poll_max_s=_number(options, "poll_max_s"),
        )
        backend = ClusterBackend(spec.name, host, dialect, place, owner, changed)
        return Station(
            spec=spec,
            works=backend,
            where=f"{host.where}:{place.spool}/{place.instance}",
            own=backend.own,
            owner_there=backend.owner_there,
            left=backend.traces,
            close=backend.close,
            log=backend.log_path,
            user=_text(_mapping(options, "ssh"), "user") or _me(),
        )

    def spool(self, spec: BackendSpec) -> Path:
        """The folder of this instance on a backend of this machine."""
        chosen = _text(spec.options, "spool")
        return (Path(chosen).expanduser() if chosen else self.settings.spool / spec.name) / self.settings.instance

    def held_by(self, spool: Path) -> Owner | None:
        """Who holds the spool of a local backend; None when nobody does."""
        return LocalBackend("", spool, NOBODY, nobody_told).owner_there()

    @property
    def site(self) -> Site:
        """What documents are judged by."""
        return Site(os.cpu_count() or 1, tuple(str(path) for path in self.settings.excluded))


@contextlib.contextmanager
def scratch(settings: Settings) -> Iterator[Places]:
    """Places for a verb, which may run beside a daemon: what it fetches is its own, and gone when it ends."""
    watcher = Watcher()
    with tempfile.TemporaryDirectory(prefix="reconciler-") as folder:
        try:
            yield Places(settings, watcher, Path(folder))
        finally:
            watcher.close()


def spec_of_unknown(name: str) -> BackendSpec:
    """Stands for a backend whose document is gone: a local one, where the default spool is."""
    return BackendSpec(name, "local", Place("", "", 0), 1, 1.0)


def nobody_told() -> None:
    """Nobody is told when a backend that is only looked at changes."""


def _host(spec: BackendSpec) -> Host:
    """The machine on which a batch system is asked: this one, or one that is logged in to."""
    login_shell = bool(spec.options.get("login_shell"))
    if spec.options.get("host") == "local":
        from reconciler.hosts.local import LocalHost

        return LocalHost(login_shell)
    from reconciler.hosts.ssh import SshHost
    from reconciler.hosts.ssh_place import SshPlace

    ssh = _mapping(spec.options, "ssh")
    port = ssh.get("port")
    known_hosts = _text(ssh, "known_hosts")
    return SshHost(
        SshPlace(
            host=_text(ssh, "host"),
            port=port if isinstance(port, int) else None,
            user=_text(ssh, "user"),
            key_path=_text(ssh, "key_path"),
            cert_path=_text(ssh, "cert_path"),
            known_hosts="" if known_hosts == ACCEPT_NEW else known_hosts,
            accept_new=known_hosts == ACCEPT_NEW,
            jump=_text(ssh, "jump"),
            config_path=_text(ssh, "config"),
            login_shell=login_shell,
        )
    )


def _me() -> str:
    """The user of this process; its number when it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _text(options: Mapping[str, object], key: str) -> str:
    """An option that is text; "" when it is not given."""
    value = options.get(key)
    return value if isinstance(value, str) else ""


def _texts(options: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = options.get(key)
    return tuple(str(each) for each in value) if isinstance(value, tuple | list) else ()


def _number(options: Mapping[str, object], key: str) -> float:
    """An option that is a number; a cluster's document has every one, with its default."""
    value = options[key]
    assert isinstance(value, int | float)
    return float(value)


def _mapping(options: Mapping[str, object], key: str) -> Mapping[str, object]:
    """An option that is a mapping; empty when it is not given."""
    value = options.get(key)
    return value if isinstance(value, Mapping) else {}
