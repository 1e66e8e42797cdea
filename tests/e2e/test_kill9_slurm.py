"""kill -9 of a daemon whose jobs run on a real Slurm, a few times; kill9_slurm.py does it hundreds of times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clusters.cluster import Cluster
from tests.e2e.kill9_slurm import Asked, campaign


@pytest.mark.real("slurm")
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kills_lose_and_double_nothing(slurm: Cluster, shared_folder: Path) -> None:
    """12 times `kill -9` while arrays and single jobs are sent and run: each task runs exactly as often as its retry says."""
    seen, breaches = campaign(slurm, shared_folder, Asked(kills=12, tasks=150, seed=11, deadline_s=180))

    assert (breaches, seen.get("started and lost", 0)) == ([], 0), seen


@pytest.mark.real("slurm")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_among_faults_double_nothing(slurm_alone: Cluster, shared_folder: Path) -> None:
    """8 times `kill -9` while sshd, slurmctld and the connections break as well: no attempt runs twice, none is falsely called finished."""
    seen, breaches = campaign(slurm_alone, shared_folder, Asked(kills=8, tasks=100, faults=True, seed=12, deadline_s=200))

    assert breaches == [], seen
