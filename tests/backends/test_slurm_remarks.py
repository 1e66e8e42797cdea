"""What an operator is told of a Slurm's settings: what each means, and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.backends import check
from reconciler.backends.base import Check
from reconciler.backends.dialect import Site
from reconciler.backends.slurm import Slurm

MARK = "5eedcafe"
KEEPS = Site(accounting=True, notes={"AccountingStoreFlags": "job_comment,job_env"})
RECORDED = Path(__file__).parent / "recorded/slurm"


def told(**fields: object) -> dict[str, Check]:
    """The remarks on a site, by name."""
    site = Site(**{"version": "22.05.8", "array_max": 1001, "remembered_s": 300.0, "notes": {"EnforcePartLimits": "ALL"}, **fields})  # type: ignore[arg-type]  # fields of Site
    return {each.name: each for each in Slurm().remarks(site)}


def noted(**notes: str) -> dict[str, Check]:
    return told(notes={"EnforcePartLimits": "ALL", **notes})


def test_a_recorded_site() -> None:
    """Of a plain Slurm: its version, arrays, memory, a limit that makes tasks wait for ever, and the other settings; nothing is wrong."""
    remarks = Slurm().remarks(Slurm().read_site(MARK, (RECORDED / "site.txt").read_text()))
    assert [each.name for each in remarks] == ["version", "arrays", "memory", "partition limits", "preemption", "settings"]
    assert {each.ok for each in remarks} == {True}
    assert "KillWait=" in remarks[-1].message


@pytest.mark.parametrize(
    ("version", "ok", "words"),
    [
        ("22.05.8", True, "22.05.8"),
        ("24.11.5", True, "24.11.5"),
        ("23.02.0-0rc1", True, "23.02.0-0rc1"),
        ("20.11.9", True, "20.11.9; older than any that was tried (22.05, 24.11)"),
        ("19.05.3", False, "19.05.3 is too old: its squeue lacks options that are needed (since 20.02)"),
        ("", True, "not said; measured with 22.05, tried with 24.11"),
    ],
)
def test_versions(version: str, ok: bool, words: str) -> None:
    """A version that cannot work is wrong; one that nobody tried is said."""
    assert told(version=version)["version"] == Check("version", ok, words)


def test_a_short_memory() -> None:
    """A scheduler that forgets ended jobs soon matters where there is no accounting to ask later."""
    assert told()["memory"].message == "ended jobs are remembered for 300 s (MinJobAge)"
    assert "later the accounting is asked" in told(remembered_s=2.0, accounting=True)["memory"].message
    assert "there is no accounting: whether a time limit" in told(remembered_s=2.0)["memory"].message
    assert "not forgotten by age" in told(remembered_s=None)["memory"].message


def test_no_arrays() -> None:
    """A site without arrays is said; it works."""
    for most in (None, 0, 1):
        assert told(array_max=most)["arrays"] == Check(
            "arrays", True, "this cluster takes none: every task is submitted by itself, which is slower for thousands"
        )


@pytest.mark.parametrize(
    ("notes", "name", "words"),
    [
        ({"JobSubmitPlugins": "lua"}, "submission", "looks at every submission with lua"),
        ({"PrivateData": "accounts,jobs"}, "privacy", "only your own jobs are shown (PrivateData=accounts,jobs)"),
        ({"EnforcePartLimits": "NO"}, "partition limits", "waits for ever (EnforcePartLimits=NO)"),
        ({"PreemptMode": "REQUEUE"}, "preemption", "such a task fails as PREEMPTED"),
        ({"RequeueExit": "42"}, "requeue", "that end with code 42 back into the queue (RequeueExit)"),
    ],
)
def test_settings_that_matter(notes: dict[str, str], name: str, words: str) -> None:
    """Each is said only where it is set, and no more in the list of the others."""
    assert name not in noted()
    found = noted(**notes)
    assert found[name].ok and words in found[name].message
    assert "settings" not in found


def test_settings_that_do_not_matter() -> None:
    """Other users' private data, no preemption and the rest are not remarked on."""
    assert [*noted(PrivateData="accounts,usage", PreemptMode="OFF", KillWait="30 sec")] == ["version", "arrays", "memory", "settings"]
    assert noted(KillWait="30 sec")["settings"].message == "KillWait=30 sec"


@pytest.mark.parametrize(
    ("seen", "live", "site", "words"),
    [
        (0, 0, Site(), "not known while no job of ours is in the queue; nothing depends on it"),
        (2, 2, Site(), "visible on every job of ours in the queue (2)"),
        (1, 2, Site(notes={"JobSubmitPlugins": "lua"}), "not visible on 1 of 2 jobs of ours in the queue: the site's JobSubmitPlugins"),
        (0, 1, Site(), "not visible on 1 of 1 jobs of ours in the queue: something on this cluster replaces it; nothing depends on it"),
        (1, 1, Site(accounting=True), "visible on every job of ours in the queue (1); not kept by the accounting (AccountingStoreFlags"),
        (1, 1, KEEPS, "visible on every job of ours in the queue (1); kept by the accounting"),
    ],
)
def test_comments(seen: int, live: int, site: Site, words: str) -> None:
    """Whether comments are seen is told of live jobs, and whether they are kept; neither is ever wrong."""
    found = check.comment(seen, live, site)
    assert found.ok and found.message.startswith(words)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("{m}|{m}=a-1|{m}=reconciler lab x|{m}.\n", [("a-1", "reconciler lab x")]),
        ("{m}|{m}=a|b|{m}=(null)|{m}.\n", [("a|b", "")]),
        ("{m}|{m}=a\nb|{m}=c\nd|{m}.\n{m}|{m}=cut|{m}=sh", [("a\nb", "c\nd")]),
        ("noise\n{m}|{m}=x|{m}.\n", []),
    ],
)
def test_comments_are_read_whatever_they_hold(text: str, rows: list[tuple[str, str]]) -> None:
    """Neither a name nor a comment can make a row up; one that was cut short is left out."""
    assert Slurm().read_comments(MARK, text.format(m=MARK)) == rows
