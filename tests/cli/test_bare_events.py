"""`events` without a RUN tells of everything, as the README says."""

from pathlib import Path

from tests.cli.command import reconciler, sample_folder


def test_events_of_everything(tmp_path: Path) -> None:
    """Without a RUN, `events` shows what happened to everything."""
    result = reconciler("events", "--dir", sample_folder(tmp_path / "trusted"))
    assert result.code == 0, result.err
    assert "SourceUnreachable" in result.out and "RunCreated" in result.out
