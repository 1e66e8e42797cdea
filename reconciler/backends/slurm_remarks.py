"""What of a Slurm cluster's settings an operator should know before jobs go there: what each means, and its cure. Pure; called by slurm.py.

A check is not ok only where something that tasks may rely on does not work. Settings that merely differ from Slurm's own are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from reconciler.backends.base import Check
from reconciler.backends.dialect import Site

#: Measured with the first, tried with the second; the last is the oldest with the options that we use (`squeue --me`).
_MEASURED, _TRIED, _OLDEST = "22.05", "24.11", (20, 2)
#: A scheduler that forgets ended jobs sooner than we look again, in seconds.
_SHORT_MEMORY_S = 60
#: Arrays of fewer elements make packing pointless.
_SMALL_ARRAY = 2
#: Told by remarks of their own, or of no use to a person who only submits.
_TOLD = frozenset({
    "AccountingStorageEnforce", "AccountingStoreFlags", "AuthType", "EnforcePartLimits", "JobSubmitPlugins", "MaxArraySize", "MaxJobCount",
    "MinJobAge", "PreemptMode", "PrivateData", "RequeueExit", "RequeueExitHold",
})  # fmt: skip


def remarks(site: Site) -> list[Check]:
    """One after the other."""
    found = [_version(site.version), _arrays(site), _memory(site)]
    found += _of_settings(site.notes)
    rest = ", ".join(f"{name}={text}" for name, text in site.notes.items() if name not in _TOLD)
    return [*found, Check("settings", True, rest)] if rest else found


def _version(text: str) -> Check:
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})", text)
    if numbers is None:
        return Check("version", True, f"{text or 'not said'}; measured with {_MEASURED}, tried with {_TRIED}")
    version = int(numbers[1]), int(numbers[2])
    if version < _OLDEST:
        return Check("version", False, f"{text} is too old: its squeue lacks options that are needed (since {_OLDEST[0]}.{_OLDEST[1]:02d})")
    measured = (int(each) for each in _MEASURED.split("."))
    known = "" if version >= tuple(measured) else f"; older than any that was tried ({_MEASURED}, {_TRIED})"
    return Check("version", True, f"{text}{known}")


def _arrays(site: Site) -> Check:
    if not site.array_max or site.array_max < _SMALL_ARRAY:
        return Check("arrays", True, "this cluster takes none: every task is submitted by itself, which is slower for thousands")
    return Check("arrays", True, f"equal tasks go out together, up to {site.array_max} at a time (array: never turns that off)")


def _memory(site: Site) -> Check:
    """How long ended jobs are remembered, and what is lost when that is short."""
    if site.remembered_s is None:
        return Check("memory", True, "ended jobs are not forgotten by age, or it is not said when")
    words = f"ended jobs are remembered for {site.remembered_s:.0f} s (MinJobAge)"
    if site.remembered_s >= _SHORT_MEMORY_S:
        return Check("memory", True, words)
    if site.accounting:
        return Check("memory", True, f"{words}; later the accounting is asked why they ended")
    lost = "whether a time limit or somebody ended a job may not be known then, only that it failed"
    return Check("memory", True, f"{words}, and there is no accounting: {lost}; `poll: {{max: …}}` below that helps")


def _of_settings(notes: Mapping[str, str]) -> Iterator[Check]:
    if plugins := notes.get("JobSubmitPlugins"):
        words = f"the site looks at every submission with {plugins}, and may change or refuse what tasks ask"
        yield Check("submission", True, f"{words}; a refusal is told in its own words. A job's name must stay as we give it")
    hidden = set(notes.get("PrivateData", "").split(",")) & {"jobs", "all"}
    if hidden:
        yield Check("privacy", True, f"only your own jobs are shown (PrivateData={notes['PrivateData']}); `queue` lists no others")
    if notes.get("EnforcePartLimits", "NO").upper() == "NO":
        words = "a task that asks for more time than its partition has is taken, and waits for ever"
        yield Check("partition limits", True, f"{words} (EnforcePartLimits=NO); `why` and the task's reason say so")
    if (mode := notes.get("PreemptMode", "OFF").upper()) != "OFF":
        words = f"jobs may be preempted (PreemptMode={mode}): such a task fails as PREEMPTED"
        yield Check("preemption", True, f"{words}, unless its `retry.on` or `requeue: true` says otherwise")
    for name in ("RequeueExit", "RequeueExitHold"):
        if codes := notes.get(name):
            words = f"the site puts jobs that end with code {codes} back into the queue ({name})"
            yield Check("requeue", True, f"{words}; none of ours runs again once it has ended")
