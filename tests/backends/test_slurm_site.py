"""What a cluster is and has is read as it was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.dialect import Ceiling, Site
from reconciler.backends.slurm import Slurm

MARK = "5eedcafe"
RECORDED = Path(__file__).parent / "recorded/slurm"


def site(config: str, assoc: str = "", qos: str = "", account: str = "") -> Site:
    """A site of which only these lines are known."""
    told = f"{MARK}|config\n{config}\n{MARK}|user\nme|lab\n{MARK}|assoc\n{assoc}\n{MARK}|qos\n{qos}\n{MARK}|end\n"
    return Slurm(account=account).read_site(MARK, told)


def test_a_recorded_site() -> None:
    """Version, start, accounting, sizes; settings that change how a cluster is read are noted."""
    read = Slurm().read_site(MARK, (RECORDED / "site.txt").read_text())
    assert (read.version, read.accounting, read.array_max, read.jobs_max, read.remembered_s) == ("22.05.8", True, 1001, 20000, 300)
    assert read.started_at == 1795373743
    assert read.submit_max is None
    assert read.notes["AccountingStorageEnforce"] == "associations,limits,qos"
    assert "JobSubmitPlugins" not in read.notes


def test_the_users_own_limit_is_found() -> None:
    """MaxSubmitJobs of the association of the account that jobs are charged to."""
    text = (RECORDED / "site-limits.txt").read_text()
    assert Slurm().read_site(MARK, text).submit_max == 2
    assert Slurm(account="science").read_site(MARK, text).submit_max == 2
    assert Slurm(account="other").read_site(MARK, text).submit_max is None


CONFIG = (
    "AccountingStorageType = accounting_storage/slurmdbd\nAccountingStorageEnforce = {enforce}\nClusterName = c\n"
    "MaxArraySize = 1001\nSchedulerParameters = {parameters}\n"
)


@pytest.mark.parametrize(
    ("assoc", "qos", "least"),
    [
        ("c|lab||50||normal", "normal|||", 50),
        ("c|lab||50||normal", "normal|20||", 20),
        ("c|lab||50||normal,long", "normal|20||\nlong|5||", 20),
        ("c|lab||50|long|normal,long", "normal|20||\nlong|5||", 5),
        ("c|lab||||normal", "normal|||7", 7),
        ("c|lab||||normal", "normal||9|", 9),
        ("c|other||3||normal\nc|lab||50||normal", "", 50),
        ("elsewhere|lab||3||normal\nc|lab||50||normal", "", 50),
        ("", "", None),
    ],
)
def test_the_least_of_the_limits_that_are_set_counts(assoc: str, qos: str, least: int | None) -> None:
    """Of the association, and of the QOS that is used by default; of this cluster and account."""
    assert site(CONFIG.format(enforce="associations,limits", parameters="(null)"), assoc, qos).submit_max == least


@pytest.mark.parametrize("enforce", ["none", "associations", "nojobs"])
def test_a_limit_that_is_not_enforced_is_none(enforce: str) -> None:
    """slurmdbd may hold numbers that nobody looks at."""
    assert site(CONFIG.format(enforce=enforce, parameters=""), "c|lab||5||normal").submit_max is None


def test_the_scheduler_may_allow_less_of_an_array() -> None:
    """max_array_tasks of SchedulerParameters."""
    assert site(CONFIG.format(enforce="none", parameters="defer,max_array_tasks=100")).array_max == 100
    assert site(CONFIG.format(enforce="none", parameters="defer")).array_max == 1001


def test_a_slurm_that_never_forgets_has_no_time_for_it() -> None:
    """MinJobAge=0 keeps ended jobs for ever."""
    assert site("MinJobAge = 0 sec").remembered_s is None


def test_a_recorded_capacity() -> None:
    """Each partition as a line; processors are not counted twice where partitions share nodes."""
    read = Slurm().read_capacity(MARK, (RECORDED / "capacity.txt").read_text())
    assert (read.slots, read.free) == (256, 256)
    assert read.partitions == (
        "urgent: up; nodes 4; processors 256, idle 256; time limit 1:00:00",
        "off: inactive; nodes 1; processors 64, idle 64; time limit infinite",
        "dead: down; nodes 1; processors 64, idle 64; time limit infinite",
        "main (default): up; nodes 4; processors 256, idle 256; time limit infinite, by default 1:00:00",
        "short: up; nodes 4; processors 256, idle 256; time limit 10:00, by default 5:00",
    )
    assert read.limits == ("elements of one array: 1001", "jobs that the scheduler holds, of everybody: 20000")


def test_what_was_not_said_is_unknown() -> None:
    """An empty answer is no cluster without accounting and limits: nothing is known of it."""
    assert Slurm().read_site(MARK, "") == Site()
    assert Slurm().read_capacity(MARK, "").slots is None


def test_what_a_partition_allows_is_its_ceiling() -> None:
    """Its time limit, and the memory of its largest node; the default partition is there under "" too."""
    read = Slurm().read_site(MARK, (RECORDED / "site-ceilings.txt").read_text())
    assert read.ceilings == {"main": Ceiling(None, 65536), "short": Ceiling(600, 65536), "": Ceiling(None, 65536)}


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [("10:00", 600), ("1:00:00", 3600), ("2-00:00:00", 172800), ("infinite", None), ("n/a", None), ("", None), ("9" * 30, None)],
)
def test_a_time_limit_of_a_partition_is_read(shown: str, seconds: int | None) -> None:
    """As sinfo prints it."""
    read = Slurm().read_site(MARK, f"{MARK}|ceilings\np|{shown}|1024+|p\np|{shown}|2048|p\n")
    assert read.ceilings == {"p": Ceiling(seconds, 2048)}


PIECES = st.sampled_from(
    [*(f"\n{MARK}|{part}\n" for part in ("config", "assoc", "qos", "ceilings")), "MaxArraySize = ", "9" * 20, "|", "=", "\n", "c|lab||"]
)


@given(st.lists(PIECES | st.text()).map("".join))
def test_garbage_never_raises(text: str) -> None:
    """Whatever is printed, there is a site and a capacity."""
    Slurm().read_site(MARK, text)
    Slurm().read_capacity(MARK, text)
