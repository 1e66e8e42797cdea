"""What was tried on a cluster, in words for the operator: does it work, what that means, and the cure. Pure; called by front.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from reconciler.backends.base import Check
from reconciler.backends.dialect import Dialect, Site
from reconciler.backends.marks import Owner
from reconciler.backends.reply import Reply

#: Clocks that differ by less than this are the same; by more than the second, somebody should mend them: times of the cluster are shifted
#: by the difference, but a person who compares logs is not.
_CLOCK_S, _CLOCK_MAX_S = 2, 30
_NOISE_SHOWN = 60
#: File systems that no other machine sees, unless it is exported, as `stat -f` calls them.
_LOCAL_KINDS = frozenset({"tmpfs", "ramfs", "overlayfs", "ext2/ext3", "xfs", "btrfs", "zfs", "f2fs"})

NO_ACCOUNTING = Check("accounting", True, "none: everything works; memory and processor time of ended jobs are not known")


def profile(noise: Sequence[str]) -> list[Check]:
    """What the user's profile prints when a program is run."""
    if not noise:
        return []
    lines = f"{len(noise)} line{'s' if len(noise) > 1 else ''}"
    words = f"prints {lines} before every program ({noise[0][:_NOISE_SHOWN]!r}); ignored"
    return [Check("profile", True, f"{words}, but it breaks scp and rsync: print only in interactive shells")]


def clock(ahead_s: float | None) -> Check:
    """How far the far side's clock is ahead of ours."""
    if ahead_s is None:
        return Check("clock", False, "its clock cannot be read (`date +%s`)")
    ahead = round(ahead_s)
    if abs(ahead) < _CLOCK_S:
        return Check("clock", True, "the same as here")
    words = f"{abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} this machine's; times are shifted by that"
    cure = "" if abs(ahead) <= _CLOCK_MAX_S else "; let both follow a time server (chrony, systemd-timesyncd)"
    return Check("clock", not cure, f"{words}{cure}")


def spool(reply: Reply, root: str, owner: Owner | None) -> Check:
    """Whether the spool can be written, whose it is, and how much room there is. `reply` is far.tried's."""
    whose = f"belongs to ledger {owner.ledger_id}" if owner else "belongs to nobody yet"
    told = [f"{root} {whose}"]
    if (size := reply.first("size") or "").isdecimal():
        told.append(f"holds {int(size) / 1024:.0f} MB")
    told += [f"{words}: {text}" for words, key in (("free", "free"), ("quota", "quota")) if (text := reply.first(key))]
    if kind := reply.first("kind"):
        local = ", which other machines see only if it is exported to them" if kind in _LOCAL_KINDS else ""
        told.append(f"on {kind}{local}")
    if words := reply.first("failed"):
        cure = "make it writable for this user, free some room, or give the Backend another `spool`"
        return Check("spool", False, f"{root} cannot be written: {words}; {cure} ({'; '.join(told[1:])})")
    return Check("spool", True, "; ".join(told))


def commands(reply: Reply, dialect: Dialect) -> Check:
    """Where the scheduler's commands are. `reply` is far.tried's."""
    where = {name: path for name, _, path in (rest.partition(" ") for rest in reply.all("program"))}
    folders: dict[str, list[str]] = {}
    for name in (*dialect.programs, *dialect.extras):
        if path := where.get(name):
            folders.setdefault(str(PurePosixPath(path).parent), []).append(name)
    found = "; ".join(f"{', '.join(names)} in {folder}" for folder, names in folders.items())
    if missing := [name for name in dialect.programs if not where.get(name)]:
        cure = "put their folder on the PATH of a login that is not interactive, or set `login_shell: true`, which reads the user's profile"
        words = f"{', '.join(missing)} not found on PATH ({reply.first('path') or 'which is empty'}): {cure}"
        return Check("commands", False, f"{words}; there are: {found}" if found else words)
    without = [name for name in dialect.extras if not where.get(name)]
    return Check("commands", True, f"{found}; without {', '.join(without)}" if without else found)


def limits(site: Site) -> Check:
    """How many jobs there may be."""
    told = (("elements of an array:", site.array_max), ("jobs of everybody:", site.jobs_max), ("submitted by this user:", site.submit_max))
    return Check("limits", True, ", ".join(f"{words} {value}" for words, value in told if value is not None) or "it says of none")


def comment(seen: int, live: int, site: Site) -> Check:
    """Whether the comment that every job of ours carries can be seen: on `seen` of `live` jobs in the queue it was."""
    kept = "kept by the accounting" if "job_comment" in site.notes.get("AccountingStoreFlags", "") else ""
    kept = kept or ("not kept by the accounting (AccountingStoreFlags lacks job_comment)" if site.accounting else "")
    after = f"; {kept}" if kept else ""
    depends = "nothing depends on it: jobs are found by their names"
    if not live:
        return Check("comment", True, f"not known while no job of ours is in the queue{after}; {depends}")
    if seen == live:
        return Check("comment", True, f"visible on every job of ours in the queue ({live}){after}")
    plugins = site.notes.get("JobSubmitPlugins")
    who = f"the site's JobSubmitPlugins ({plugins}) may replace it" if plugins else "something on this cluster replaces it"
    return Check("comment", True, f"not visible on {live - seen} of {live} jobs of ours in the queue{after}: {who}; {depends}")
