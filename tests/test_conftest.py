"""The rule for real programs and clusters: skipped where they are missing, a failure where they must be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SUITE = """\
import pytest

@pytest.mark.real("git", "no-such-program", "slurm")
def test_it():
    '''Never runs.'''
"""


@pytest.mark.parametrize(("required", "expected"), [("", "1 skipped"), ("1", "1 error")])
def test_what_is_missing(tmp_path: Path, required: str, expected: str) -> None:
    """Without it the test is skipped and what is missing is named for the last line of tests/run; where it is required, the test fails."""
    root = Path(__file__).parents[1]
    (tmp_path / "test_it.py").write_text(_SUITE)
    (tmp_path / "conftest.py").write_text((root / "tests" / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    real(name): see conftest.py\n")
    skipped = tmp_path / "skipped"
    environment = {**os.environ, "RECONCILER_REQUIRE_REAL": required, "RECONCILER_SKIPPED": str(skipped), "PYTHONPATH": str(root)}
    environment.pop("RECONCILER_SLURM", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert expected in done.stdout
    assert (skipped.read_text() if skipped.exists() else "") == ("" if required else "no-such-program\nslurm\n")
