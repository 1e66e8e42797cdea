"""The fields of a Backend that are its type's own -> `options` of core.desired.BackendSpec, under the names that backends read.

Called by resolve.py. Plain values only (texts, numbers, tuples, mappings), so that two versions of a backend can be compared and stored.
`login_shell` (bool) and `spool` (path) are there for every type. A cluster has besides:

* `host`: "local" for a daemon on the login node itself, else "" and `ssh` is a mapping with `host`, `port` (None: not said), `user`,
  `key_path`, `cert_path`, `known_hosts` (a path, `accept-new`, or "": the user's own), `jump`, `config`; "" is "not said".
* `account`, `partition_map`, `default_partition`, `scheduler_args` (names of options that tasks may use), `array` (auto, never).
* `poll_min_s`, `poll_max_s`: bounds of the interval at which the scheduler is asked.
* `clone_dir`: always "" so far.

Paths of this machine are absolute or `~/…`; `spool` of a cluster is a path there.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.errors import Problem
from reconciler.manifest import schema
from reconciler.manifest.load import Document
from reconciler.manifest.origin import Origin, beside
from reconciler.manifest.schema_backend import ACCEPT_NEW, CLUSTER_TYPES

#: Where jobs of a cluster are kept when its document does not say: in the home folder, which login and compute nodes share as a rule.
CLUSTER_SPOOL = "~/.reconciler"
_SSH_FILES = ("key_path", "cert_path", "known_hosts", "config")


def options_of(document: Document, origin: Origin) -> tuple[dict[str, object], tuple[Problem, ...]]:
    """The options of a Backend document, and what is wrong with its paths."""
    assert isinstance(document.model, schema.Backend)
    spec = document.model.spec
    if spec.type not in CLUSTER_TYPES:
        try:
            return {"login_shell": spec.login_shell, "spool": beside(spec.spool, origin.root, document.place.file)}, ()
        except ValueError as error:
            return {}, (document.problem(("spec", "spool"), str(error)),)
    ssh, problems = _ssh(spec.ssh, document, origin) if spec.ssh else (None, [])
    spool = spec.spool or CLUSTER_SPOOL
    if not spool.startswith(("/", "~/")):
        message = f"spool is a folder of the cluster: write it absolute or with ~/ in front, not {spool!r}"
        problems.append(document.problem(("spec", "spool"), message, f"as in {CLUSTER_SPOOL}"))
    return {
        "login_shell": spec.login_shell,
        "spool": spool,
        "host": spec.host or "",
        "ssh": ssh,
        "account": spec.account,
        "partition_map": dict(spec.partition_map),
        "default_partition": spec.default_partition,
        "scheduler_args": spec.scheduler_args,
        "array": spec.array,
        "poll_min_s": spec.poll.min,
        "poll_max_s": spec.poll.max,
        "clone_dir": spec.clone_dir,
    }, tuple(problems)


def _ssh(spec: schema.SshSpec, document: Document, origin: Origin) -> tuple[Mapping[str, str | int | None], list[Problem]]:
    """`ssh` with its paths beside the document."""
    problems: list[Problem] = []
    placed: dict[str, str] = {}
    for name in _SSH_FILES:
        written: str = getattr(spec, name)
        try:
            placed[name] = written if name == "known_hosts" and written == ACCEPT_NEW else beside(written, origin.root, document.place.file)
        except ValueError as error:
            problems.append(document.problem(("spec", "ssh", name), str(error)))
    return {"host": spec.host, "port": spec.port, "user": spec.user, "jump": spec.jump, **placed}, problems
