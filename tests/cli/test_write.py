"""The verbs that write: one manifest each, everything else in it untouched."""

from __future__ import annotations

import difflib
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import ALIVE, DIAMOND, DIGEST, OLD, Result, reconciler, sample_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sample_folder(tmp_path / "trusted")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


def added(before: str, after: str) -> list[str]:
    """The lines that came in; none may have gone."""
    lines = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[:2] in ("+ ", "- ")]
    assert [line for line in lines if line.startswith("-")] == []
    return [line[2:] for line in lines]


def succeeded(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def test_rerun_adds_one_line(folder: Path) -> None:
    """A new token is added to the workflow's file, and its comments, quotes and blank lines stay."""
    result = succeeded(reconciler("rerun", "diamond", "--token", "again", "--dir", folder))
    assert added(DIAMOND, (folder / "diamond.yaml").read_text()) == ["  rerun: again"]
    assert result.out == f"{folder}/diamond.yaml: rerun: again\n"


def test_rerun_twice_gives_two_tokens(folder: Path) -> None:
    """Without --token each call makes a token that was never there."""
    tokens = []
    for _ in range(2):
        succeeded(reconciler("rerun", "diamond", "--dir", folder))
        tokens += re.findall(r"^  rerun: (\S+)$", (folder / "diamond.yaml").read_text(), re.MULTILINE)
    assert len(set(tokens)) == 2


@pytest.mark.parametrize("word", [ALIVE, OLD[:6], "workflow/diamond"])
def test_rerun_of_a_run_is_of_its_workflow(folder: Path, word: str) -> None:
    """Whatever names the workflow, its file is edited."""
    succeeded(reconciler("rerun", word, "--token", "x", "--dir", folder))
    assert "  rerun: x\n" in (folder / "diamond.yaml").read_text()


def test_rerun_of_a_workflow_of_a_source_is_a_request(folder: Path) -> None:
    """What is not ours to edit is asked for by a Run document in requests/, which is a valid manifest."""
    succeeded(reconciler("rerun", "econ/nightly", "--token", "x", "--dir", folder))
    text = (folder / "requests" / "rerun-econ-nightly-x.yaml").read_text()
    assert "kind: Run" in text and "workflow: econ/nightly" in text
    assert valid(folder)


def valid(folder: Path) -> bool:
    """Whether every manifest in requests/ is one."""
    from reconciler.manifest.load import load_file
    from reconciler.sources.base import Blob

    loaded = [load_file(path.name, Blob("", path.read_bytes()), source="") for path in (folder / "requests").iterdir()]
    return all(each.documents and not each.problems for each in loaded)


def test_cancel_is_a_request(folder: Path) -> None:
    """A run is cancelled by a document that names it; asking again changes nothing."""
    succeeded(reconciler("cancel", "diamond", "--dir", folder))
    path = folder / "requests" / f"cancel-{ALIVE}.yaml"
    text = path.read_text()
    assert f'run: "{ALIVE}"' in text and "state: cancelled" in text and valid(folder)
    again = succeeded(reconciler("cancel", ALIVE, "--dir", folder))
    assert (path.read_text(), again.out) == (text, f"{path}: it says so already\n")


def test_a_run_id_of_digits_stays_text(folder: Path) -> None:
    """An id that looks like a number is written so that it reads back as text."""
    from reconciler.core.record import TaskRecord
    from reconciler.ledger import Batch, Ledger
    from tests.cli.command import new_run

    for number in ("123456789012", "1234567890e5"):
        ledger = Ledger.open(folder / ".state", "lab")
        ledger.save(Batch(new_runs=(new_run(number, "other", 5000.0, {task: TaskRecord() for task in ("setup", "build.x")}),)))
        ledger.close()
        succeeded(reconciler("cancel", number, "--dir", folder))
    assert valid(folder)


def test_cancel_of_a_run_that_has_ended_says_so(folder: Path) -> None:
    """There is nothing to cancel, and nothing is written."""
    result = succeeded(reconciler("cancel", OLD, "--dir", folder))
    assert result.out == f"run {OLD} of diamond has ended already: Succeeded\n"
    assert not (folder / "requests").exists()


def test_suspend_and_resume_leave_the_file_as_it_was(folder: Path) -> None:
    """`suspend` adds one field with who and why; `resume` takes exactly that away."""
    succeeded(reconciler("suspend", "diamond", "--reason", "disk: full", "--by", "ada", "--until", "2030-01-01T00:00:00Z", "--dir", folder))
    assert added(DIAMOND, (folder / "diamond.yaml").read_text()) == [
        '  suspend: {reason: "disk: full", by: ada, until: "2030-01-01T00:00:00Z"}'
    ]
    succeeded(reconciler("resume", "diamond", "--dir", folder))
    assert (folder / "diamond.yaml").read_text() == DIAMOND
    assert reconciler("resume", "diamond", "--dir", folder).out.endswith("it says so already\n")


def test_suspend_and_resume_of_a_run(folder: Path) -> None:
    """A run is suspended by a request, and resumed by taking it away."""
    succeeded(reconciler("suspend", ALIVE, "--by", "ada", "--dir", folder))
    path = folder / "requests" / f"suspend-{ALIVE}.yaml"
    assert "suspend:" in path.read_text() and valid(folder)
    succeeded(reconciler("resume", ALIVE, "--dir", folder))
    assert not path.exists()


def test_a_bad_time_is_refused(folder: Path) -> None:
    """--until that is no time is wrong usage, and nothing is written."""
    result = reconciler("suspend", "diamond", "--until", "tomorrow", "--dir", folder)
    assert result.code == 2 and "tomorrow" in result.err
    assert (folder / "diamond.yaml").read_text() == DIAMOND


def test_a_workflow_of_a_source_cannot_be_suspended(folder: Path) -> None:
    """Its file is not ours; the message says what can be suspended instead."""
    result = reconciler("suspend", "econ/nightly", "--dir", folder)
    assert (result.code, "suspend Source/econ" in result.err) == (1, True)


def test_approve_writes_what_the_daemon_saw(folder: Path) -> None:
    """Without an argument it is the digest of the workflow, or the commit of the source."""
    succeeded(reconciler("approve", "diamond", "--dir", folder))
    assert added(DIAMOND, (folder / "diamond.yaml").read_text()) == [f"  approve: {DIGEST}"]
    succeeded(reconciler("approve", "econ", "--dir", folder))
    assert f"  approve: {'c' * 40}\n" in (folder / "sources.yaml").read_text()


def test_approve_of_a_workflow_of_a_source_is_of_its_source(folder: Path) -> None:
    """What a source brought in waits for the Source's approval."""
    succeeded(reconciler("approve", "econ/nightly", "--dir", folder))
    assert f"  approve: {'c' * 40}\n" in (folder / "sources.yaml").read_text()


@pytest.mark.parametrize("verb", ["rerun", "approve", "cancel", "suspend", "resume"])
def test_what_is_not_there_is_named_with_the_nearest(folder: Path, verb: str) -> None:
    """Exit code 1, the nearest name, and nothing is written."""
    result = reconciler(verb, "diamnd", "--dir", folder)
    assert result.code == 1 and "did you mean diamond?" in result.err
    assert (folder / "diamond.yaml").read_text() == DIAMOND and not (folder / "requests").exists()


def test_two_documents_of_one_name_are_not_guessed_between(folder: Path) -> None:
    """A name that means two documents is refused with both places."""
    (folder / "copy.yaml").write_text(DIAMOND)
    result = reconciler("rerun", "diamond", "--dir", folder)
    assert result.code == 1 and "copy.yaml" in result.err and "diamond.yaml" in result.err


def test_a_file_that_is_not_valid_is_not_edited(folder: Path) -> None:
    """The problem is told with its line, and the file stays as it is."""
    broken = DIAMOND + "  a: 1\n  a: 2\n"
    (folder / "diamond.yaml").write_text(broken)
    result = reconciler("rerun", "diamond", "--dir", folder)
    assert result.code == 1 and "diamond.yaml:" in result.err
    assert (folder / "diamond.yaml").read_text() == broken


def test_mode_and_symlink_stay(folder: Path) -> None:
    """A file that is a symlink stays one, and the file behind it keeps its mode."""
    real = folder.parent / "real.yaml"
    real.write_text(DIAMOND)
    real.chmod(0o640)
    (folder / "diamond.yaml").unlink()
    (folder / "diamond.yaml").symlink_to(real)
    succeeded(reconciler("rerun", "diamond", "--dir", folder))
    assert (folder / "diamond.yaml").is_symlink() and real.stat().st_mode & 0o777 == 0o640 and "rerun:" in real.read_text()


@pytest.mark.real("git")
def test_commit_takes_this_file_and_nothing_else(folder: Path) -> None:
    """--commit commits the edited file with a subject that says what was done; what else is staged or changed stays so."""
    git(folder, "init", "-q")
    git(folder, "add", "settings.yaml", "diamond.yaml", "sources.yaml")
    git(folder, "commit", "-qm", "start")
    (folder / "staged.txt").write_text("mine")
    git(folder, "add", "staged.txt")
    succeeded(reconciler("rerun", "diamond", "--token", "x", "--commit", "--dir", folder))
    assert git(folder, "show", "--name-only", "--format=%s", "HEAD").split() == ["rerun", "diamond", "diamond.yaml"]
    succeeded(reconciler("cancel", "diamond", "--commit", "--dir", folder))
    assert git(folder, "show", "--name-only", "--format=", "HEAD").split() == [f"requests/cancel-{ALIVE}.yaml"]
    assert git(folder, "diff", "--cached", "--name-only").split() == ["staged.txt"]


@pytest.mark.real("git")
def test_commit_of_a_request_that_is_taken_back(folder: Path) -> None:
    """A request that was committed is removed by a commit; one that never was needs none."""
    git(folder, "init", "-q")
    git(folder, "add", "settings.yaml", "diamond.yaml")
    git(folder, "commit", "-qm", "start")
    for committed in ([], ["--commit"]):
        succeeded(reconciler("suspend", ALIVE, *committed, "--dir", folder))
        succeeded(reconciler("resume", ALIVE, "--commit", "--dir", folder))
    assert git(folder, "log", "--format=%s").splitlines()[:2] == [f"resume run {ALIVE} of diamond", f"suspend run {ALIVE} of diamond"]
    assert git(folder, "status", "--porcelain", "requests") == ""


@pytest.mark.real("git")
def test_commit_outside_a_repository_says_so(folder: Path) -> None:
    """The file is written, the commit is not possible: exit code 1, and both are said."""
    result = reconciler("rerun", "diamond", "--commit", "--dir", folder, env={"GIT_CEILING_DIRECTORIES": str(folder.parent)})
    assert (result.code, "no git repository holds it" in result.err) == (1, True)
    assert "rerun:" in (folder / "diamond.yaml").read_text()


@pytest.mark.real("git")
def test_a_hook_that_refuses_is_quoted(folder: Path) -> None:
    """git's own words are passed on, and the exit code is 1."""
    git(folder, "init", "-q")
    hook = folder / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho not on a Friday >&2\nexit 1\n")
    hook.chmod(0o755)
    result = reconciler("rerun", "diamond", "--commit", "--dir", folder)
    assert (result.code, "not on a Friday" in result.err) == (1, True)


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    """It says so in one line."""
    (folder / "requests").write_text("in the way")
    result = reconciler("cancel", "diamond", "--dir", folder)
    assert (result.code, result.err.count("\n"), "cannot be made" in result.err) == (1, 1, True)
