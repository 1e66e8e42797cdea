"""The real clusters as fixtures, for tests anywhere; tests/conftest.py hands them on. A test that takes one is marked with it:

    @pytest.mark.real("slurm")
    def test_it(slurm: Cluster) -> None: ...

`slurm` and `slurm_accounting` are shared with the other worker: submit, look, cancel your own. `slurm_alone` and
`slurm_accounting_alone` are for what would hurt others: breaking daemons, changing limits, draining nodes, cancelling all. They are
mended before and after. A test that takes one alone takes no second one, or two tests could wait for each other.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.cluster import VARIABLES, Cluster


def _shared(name: str) -> Iterator[Cluster]:
    cluster = Cluster.named(name)
    with cluster.held(alone=False):
        yield cluster


def _alone(name: str) -> Iterator[Cluster]:
    cluster = Cluster.named(name)
    with cluster.held(alone=True):
        cluster.mend()
        yield cluster
        cluster.mend()
        cluster.cancel_all()


@pytest.fixture
def slurm() -> Iterator[Cluster]:
    """A Slurm without accounting, while nobody breaks it."""
    yield from _shared("slurm")


@pytest.fixture
def slurm_alone() -> Iterator[Cluster]:
    """The Slurm without accounting, with nobody else on it."""
    yield from _alone("slurm")


@pytest.fixture
def slurm_accounting() -> Iterator[Cluster]:
    """A Slurm with slurmdbd, which enforces the limits of accounts (there are none set), while nobody breaks it."""
    yield from _shared("slurm-accounting")


@pytest.fixture
def slurm_accounting_alone() -> Iterator[Cluster]:
    """The Slurm with slurmdbd, with nobody else on it."""
    yield from _alone("slurm-accounting")


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A new folder that both the test and jobs may write to; it belongs to the main user of the clusters."""
    name = next((name for name, variable in VARIABLES.items() if os.environ.get(variable)), "slurm")
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="reconciler-"))  # not below tmp_path, which is closed to other users
    shutil.chown(folder, Cluster.named(name).user)
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # a job that was just cancelled may still write
