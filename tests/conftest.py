"""What every test shares: a git that reads no configuration of the machine, the rule for real programs, and the real clusters.

A test that needs a real program says so: `@pytest.mark.real("sshd")`. Without the program it is skipped, and the summary names
it; with RECONCILER_REQUIRE_REAL=1 (CI) it fails instead. "slurm" and "slurm-accounting" are there when tests/run brought them up.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.clusters.cluster import VARIABLES
from tests.clusters.fixtures import shared_folder as shared_folder
from tests.clusters.fixtures import slurm as slurm
from tests.clusters.fixtures import slurm_accounting as slurm_accounting
from tests.clusters.fixtures import slurm_accounting_alone as slurm_accounting_alone
from tests.clusters.fixtures import slurm_alone as slurm_alone

_MISSING = "not on this machine: "

os.environ.update(
    GIT_CONFIG_GLOBAL=os.devnull,
    GIT_CONFIG_NOSYSTEM="1",
    GIT_TERMINAL_PROMPT="0",
    GIT_AUTHOR_NAME="Ada",
    GIT_AUTHOR_EMAIL="ada@example.org",
    GIT_COMMITTER_NAME="Ada",
    GIT_COMMITTER_EMAIL="ada@example.org",
)
os.environ.pop("RECONCILER_DIR", None)
_SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def missing_programs(item: pytest.Item) -> list[str]:
    """The programs and clusters that the test's `real` marks name and this machine does not have."""
    names = [name for mark in item.iter_markers("real") for name in mark.args]
    return [name for name in names if not _is_here(name)]


def _is_here(name: str) -> bool:
    if name in VARIABLES:
        return bool(os.environ.get(VARIABLES[name]))
    return shutil.which(name, path=_SEARCH) is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = missing_programs(item)
    if not missing:
        return
    if os.environ.get("RECONCILER_REQUIRE_REAL") == "1":
        pytest.fail(_MISSING + ", ".join(missing), pytrace=False)
    pytest.skip(_MISSING + ", ".join(missing))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell tests/run what was left out, for its last line."""
    target = os.environ.get("RECONCILER_SKIPPED")
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    names = {name.strip() for reason in reasons if _MISSING in reason for name in reason.partition(_MISSING)[2].split(",")}
    if target and names:
        Path(target).write_text("".join(f"{name}\n" for name in sorted(names)))
