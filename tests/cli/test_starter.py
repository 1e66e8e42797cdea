"""`init`: a folder to begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.starter import DEMO, STARTER
from reconciler.config import settings_from
from reconciler.manifest.load import Loaded, load_file
from reconciler.sources.base import Blob
from tests.cli.command import reconciler


def loaded(files: dict[str, str]) -> list[Loaded]:
    """What the YAML files say."""
    return [load_file(name, Blob(name, text.encode()), source="") for name, text in files.items() if name.endswith(".yaml")]


@pytest.mark.parametrize("files", [STARTER, DEMO], ids=["init", "demo"])
def test_what_is_written_is_valid(files: dict[str, str], tmp_path: Path) -> None:
    """Every file has no problem, and its Settings are usable."""
    found = loaded(files)
    assert [problem for each in found for problem in each.problems] == []
    assert settings_from(found, tmp_path).state_dir == tmp_path / ".state"


def test_the_commented_source_is_valid_too() -> None:
    """Who takes the marks away has a valid Source."""
    text = STARTER["sources.yaml"].partition("# ---\n")[2].replace("# ", "").replace("#", "")
    found = loaded({"sources.yaml": text})[0]
    assert ([document.kind for document in found.documents], found.problems) == (["Source"], ())


def test_init_writes_a_folder(tmp_path: Path) -> None:
    """Every file is named, and the folder is made."""
    result = reconciler("init", tmp_path / "new" / "hut")
    assert result.code == 0
    written = {path.relative_to(tmp_path / "new" / "hut").as_posix() for path in (tmp_path / "new" / "hut").rglob("*") if path.is_file()}
    assert written == set(STARTER)


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    """When one file is there already, none is written: exit code 1, and it is named."""
    (tmp_path / "settings.yaml").write_text("mine")
    result = reconciler("init", tmp_path)
    assert (result.code, "settings.yaml" in result.err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


def test_init_without_an_argument_is_the_current_folder(tmp_path: Path) -> None:
    """`reconciler init` in an empty folder fills it."""
    assert reconciler("init", cwd=tmp_path).code == 0
    assert (tmp_path / "workflows" / "hello.yaml").exists()


def test_demo_refuses_a_folder_with_a_demo(tmp_path: Path) -> None:
    """Nothing of an earlier demo is touched."""
    (tmp_path / "diamond.yaml").write_text("mine")
    result = reconciler("demo", tmp_path)
    assert (result.code, (tmp_path / "diamond.yaml").read_text()) == (1, "mine")
