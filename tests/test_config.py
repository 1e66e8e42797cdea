"""The daemon's own settings: defaults, units, and everything that makes them unusable."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from reconciler.config import Settings, settings_from
from reconciler.core.trigger import Limits
from reconciler.errors import SettingsError
from reconciler.manifest.load import Loaded, load_file
from reconciler.manifest.origin import DeleteGuard
from reconciler.sources.base import Blob

HEAD = "apiVersion: scripthut/v1\nkind: Settings\nmetadata: {name: me}\n"


def loaded(texts: dict[str, str]) -> list[Loaded]:
    return [load_file(path, Blob(hashlib.sha1(text.encode()).hexdigest(), text.encode()), source="") for path, text in texts.items()]


def settings(folder: Path, spec: str = "{}", file: str = "settings.yaml") -> Settings:
    return settings_from(loaded({file: f"{HEAD}spec: {spec}\n"}), folder)


def refusal(folder: Path, texts: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as error:
        settings_from(loaded(texts), folder)
    return str(error.value)


def test_defaults(tmp_path: Path) -> None:
    """A Settings that says nothing but its name is complete."""
    found = settings(tmp_path)
    assert (found.instance, found.folder, found.host, found.port) == ("me", tmp_path, "127.0.0.1", 8765)
    assert (found.state_dir, found.status_dir, found.spool) == (tmp_path / ".state", tmp_path / "status", tmp_path / ".state/spool")
    assert found.excluded == (tmp_path / ".state", tmp_path / "status")
    assert (found.poll_interval_s, found.source_interval_s, found.status_interval_s) == (10.0, 60.0, 1.0)
    assert (found.retention_runs_s, found.retention_events_s) == (90 * 86400.0, 30 * 86400.0)
    assert (found.limits, found.guard, found.log_format, found.log_level) == (Limits(100, None), DeleteGuard(0.5, 3), "auto", "info")
    assert (found.layer.name, found.layer.rules) == ("server", ())


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    """Durations become seconds; environment rules and groups are there; paths begin at the file's own folder."""
    spec = """
  state_dir: ../state
  status_dir: /srv/status
  listen: "[::1]:9000"
  poll_interval: 500ms
  source_interval: 5m
  status_interval: 2s
  env: [{set: {A: a}}]
  env_groups: {g: [{set: {B: b}}]}
  limits: {runs_per_commit: 5, core_hours_per_run: 10, delete_guard: {share: 0.2, min: 0}}
  retention: {runs: 7d, events: 1d}
  log: {format: json, level: debug}"""
    found = settings(tmp_path, spec, "sub/s.yaml")
    assert (found.state_dir, found.status_dir, found.host, found.port) == (tmp_path / "state", Path("/srv/status"), "::1", 9000)
    assert (found.poll_interval_s, found.source_interval_s, found.status_interval_s) == (0.5, 300.0, 2.0)
    assert (found.limits, found.guard) == (Limits(5, 10.0), DeleteGuard(0.2, 0))
    assert (found.retention_runs_s, found.retention_events_s, found.log_format, found.log_level) == (7 * 86400.0, 86400.0, "json", "debug")
    assert (found.layer.rules[0].set, set(found.layer.groups)) == ((("A", "a"),), {"g"})


def test_the_home_of_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/` in a folder is the home of whoever runs the daemon."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert settings(tmp_path, "{state_dir: ~/state}").state_dir == tmp_path / "home/state"


def test_without_settings_there_is_a_cure(tmp_path: Path) -> None:
    """An empty folder, and one with other documents, name the verb that writes the first Settings."""
    assert "`reconciler init` writes one" in refusal(tmp_path, {})
    assert "there is no Settings document" in refusal(tmp_path, {"b.yaml": HEAD.replace("Settings", "Backend") + "spec: {type: local}\n"})


def test_a_broken_file_that_may_hold_the_settings_is_told(tmp_path: Path) -> None:
    """When there are no Settings, a file that cannot be read is the first suspect."""
    assert "junk.yaml:1:" in refusal(tmp_path, {"junk.yaml": "{"})


def test_two_settings_name_both_places(tmp_path: Path) -> None:
    """Nobody can tell which is meant."""
    said = refusal(tmp_path, {"a.yaml": HEAD, "b.yaml": HEAD.replace("{name: me}", "{name: you}")})
    assert "a.yaml:1" in said
    assert "b.yaml:1" in said


def test_a_second_settings_that_is_broken_counts(tmp_path: Path) -> None:
    """One that is valid beside one that is not: the broken one may be the one that is meant."""
    broken = HEAD.replace("{name: me}", "{name: you}") + "spec: {port: 5}\n"
    assert "b.yaml:4" in refusal(tmp_path, {"a.yaml": HEAD, "b.yaml": broken})


def test_all_problems_at_once_with_their_places(tmp_path: Path) -> None:
    """Every mistake in the Settings is told, as file:line:column; those of other documents are not the Settings' fault."""
    text = HEAD + "spec:\n  statedir: x\n  poll_interval: 5\n"
    said = refusal(tmp_path, {"s.yaml": text, "other.yaml": "a: b\n"})
    assert "s.yaml:5:3" in said
    assert "did you mean state_dir?" in said
    assert "s.yaml:6:18" in said
    assert "other.yaml" not in said


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{state_dir: .}", "holds the manifests themselves"),
        ("{status_dir: ..}", "holds the manifests themselves"),
        ("{state_dir: /}", "holds the manifests themselves"),
        ("{state_dir: a, status_dir: a}", "lie in each other"),
        ("{state_dir: a, status_dir: a/b}", "lie in each other"),
        ("{state_dir: a/b, status_dir: a}", "lie in each other"),
        ("{state_dir: file}", "is not a folder"),
        ("{listen: 127.0.0.1}", "is not an address with a port"),
        ("{listen: 127.0.0.1:99999}", "port 99999 does not exist"),
        ("{listen: 300.0.0.1:80}", "'300.0.0.1' is not an address"),
        ('{listen: "[::x]:80"}', "is not an address"),
        ("{listen: 'a b:80'}", "is not an address with a port"),
        ("{poll_interval: 1ms}", "at least 0.1s"),
        ("{retention: {runs: 1s}}", "at least"),
        ("{limits: {runs_per_commit: -1}}", "limits.runs_per_commit"),
        ("{limits: {delete_guard: {share: 0}}}", "share"),
        ("{limits: {core_hours_per_run: .inf}}", "number"),
        ("{pricing: {region: x}}", "not supported yet"),
        ("{env: [{set: {A: 1.5}}]}", "put it in quotes"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, spec: str, words: str) -> None:
    """A folder that would be read and written, an address that is none, a value out of range: the daemon does not start."""
    folder = tmp_path / "ops"
    folder.mkdir()
    (folder / "file").write_text("")
    assert words in refusal(folder, {"settings.yaml": f"{HEAD}spec: {spec}\n"})


def test_folders_behind_symlinks(tmp_path: Path) -> None:
    """A link does not hide that a folder holds the manifests."""
    folder = tmp_path / "ops"
    folder.mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    assert "holds the manifests themselves" in refusal(folder, {"settings.yaml": f"{HEAD}spec: {{state_dir: ../link}}\n"})
