"""The read verbs, as a user calls them, with no daemon running."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.record import TaskRecord
from reconciler.ledger import Batch, Ledger
from tests.cli.command import ALIVE, OLD, SOURCED, new_run, reconciler, sample_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: nothing here writes."""
    return sample_folder(tmp_path_factory.mktemp("trusted"))


def test_get_shows_objects_and_runs(folder: Path) -> None:
    """Without a kind, objects and the newest runs are shown, the newest first."""
    result = reconciler("get", "--dir", folder)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].split() == ["KIND", "NAME", "READY", "REASON", "MESSAGE"]
    assert ["Source", "econ", "False", "Unreachable", "no", "route", "to", "host"] in [line.split() for line in lines]
    runs = [line.split()[0] for line in lines[lines.index("") + 2 :]]
    assert runs == [SOURCED, ALIVE, OLD]


def test_get_as_json(folder: Path) -> None:
    """The same as data: objects with their status, runs with counts by state and times in UTC."""
    found = reconciler("get", "--json", "--dir", folder).json
    assert [each["name"] for each in found["objects"]] == ["local", "econ", "diamond", "econ/nightly"]
    newest = found["runs"][0]
    expected = {"id": SOURCED, "phase": "Failed", "counts": {"failed": 1, "skipped": 1}, "created_at": "1970-01-01T00:50:00Z"}
    assert {key: newest[key] for key in expected} == expected


@pytest.mark.parametrize("kind", ["workflows", "Workflow", "workflow"])
def test_get_a_kind(folder: Path, kind: str) -> None:
    """A kind may be written in singular, plural and any case."""
    found = reconciler("get", kind, "--json", "--dir", folder).json
    assert [each["name"] for each in found["objects"]] == ["diamond", "econ/nightly"]


@pytest.mark.parametrize("words", [["run", ALIVE], ["run", ALIVE[:6]], ["run", "diamond"], [ALIVE], [ALIVE[:5]]])
def test_get_one_run(folder: Path, words: list[str]) -> None:
    """A run is found by its id, a unique start of it, or its workflow's name, which means its newest run."""
    found = reconciler("get", *words, "--json", "--dir", folder).json
    assert found["id"] == ALIVE
    assert [(task["id"], task["state"]) for task in found["tasks"]] == [("setup", "succeeded"), ("build.x", "running")]


def test_get_one_run_for_people(folder: Path) -> None:
    """A run is shown with one line for each task."""
    result = reconciler("get", "run", "diamond", "--dir", folder)
    assert result.out.splitlines()[0] == f"run {ALIVE} of diamond: Running, 1 succeeded, 1 running"
    assert result.out.splitlines()[-2].split()[:5] == ["setup", "succeeded", "1", "0", "1s"]


def test_get_one_object(folder: Path) -> None:
    """An object is shown with its place, its conditions and, a workflow, its newest runs."""
    result = reconciler("get", "diamond", "--dir", folder)
    assert result.out.startswith("Workflow/diamond (diamond.yaml:2)\n")
    assert f"  Ready=True Reconciled: run {ALIVE} follows this digest" in result.out.splitlines()
    assert [line.split()[0] for line in result.out.splitlines()[-2:]] == [ALIVE, OLD]


def test_an_object_of_a_source_by_its_qualified_name(folder: Path) -> None:
    """A name with a slash is a name, unless what stands before the slash is a kind."""
    assert reconciler("get", "econ/nightly", "--json", "--dir", folder).json["kind"] == "Workflow"
    assert reconciler("get", "source/econ", "--json", "--dir", folder).json["kind"] == "Source"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["get", "diamnd"], "reconciler: no object 'diamnd'; did you mean diamond?\n"),
        (["get", "workflow", "diamnd"], "reconciler: no workflow 'diamnd'; did you mean diamond?\n"),
        (["get", "flows", "x"], "reconciler: no kind 'flows'; did you mean workflows?\n"),
        (["watch", "diamnd"], "reconciler: no run 'diamnd'; did you mean diamond?\n"),
        (["why", "diamnd"], "reconciler: no object 'diamnd'; did you mean diamond?\n"),
        (["why", "diamond", "biuld.x"], f"reconciler: no task in run {ALIVE} 'biuld.x'; did you mean build.x?\n"),
        (["events", "diamnd"], "reconciler: no run 'diamnd'; did you mean diamond?\n"),
        (["events", "source/eco"], "reconciler: no source 'eco'; did you mean econ?\n"),
        (["get", "5f0c21d9a7bf"], f"reconciler: no object '5f0c21d9a7bf'; did you mean {ALIVE}?\n"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(folder: Path, words: list[str], expected: str) -> None:
    """Exit code 1, and the nearest names."""
    result = reconciler(*words, "--dir", folder)
    assert (result.code, result.out, result.err) == (1, "", expected)


def test_a_start_of_several_ids_is_refused(tmp_path: Path) -> None:
    """The start of several ids names them all."""
    more = sample_folder(tmp_path / "twin")
    ledger = Ledger.open(more / ".state", "lab")
    ledger.save(Batch(new_runs=(new_run("5f0c21d9ffff", "other", 4000.0, {task: TaskRecord() for task in ("setup", "build.x")}),)))
    ledger.close()
    result = reconciler("get", "5f0c", "--dir", more)
    assert (result.code, result.err) == (1, "reconciler: '5f0c' is the start of several runs: 5f0c21d9a7be, 5f0c21d9ffff\n")


def test_events_of_everything_of_a_run_and_of_an_object(folder: Path) -> None:
    """Events are shown oldest first; a run's and an object's can be asked for."""
    names = [each["name"] for each in reconciler("events", "--json", "--dir", folder).json]
    assert names == ["RunCreated", "TaskRunning", "TaskFailed", "SourceUnreachable"]
    assert [each["task"] for each in reconciler("events", "diamond", "--json", "--dir", folder).json] == ["", "setup"]
    assert [each["object"] for each in reconciler("events", "Source/econ", "--json", "--dir", folder).json] == ["Source/econ"]
    assert [each["name"] for each in reconciler("events", "--limit", "1", "--json", "--dir", folder).json] == ["SourceUnreachable"]


def test_text_of_others_is_harmless(folder: Path) -> None:
    """What programs and servers said can neither steer the terminal nor show a credential."""
    result = reconciler("events", "--dir", folder)
    assert "\x1b" not in result.out and "exit code 2 \\x1b[2J" in result.out
    assert "hunter2" not in result.out and "https://[redacted]@example.org/" in result.out


def test_why_a_run_does_not_end(folder: Path) -> None:
    """The chain goes from the run to what is under way, and says that nobody moves it on."""
    result = reconciler("why", "diamond", "--json", "--dir", folder)
    chain = result.json["chain"]
    assert result.code == 0
    assert chain[0].startswith("Workflow/diamond: Reconciled: ")
    assert chain[1].startswith(f"run {ALIVE} of diamond is Running: 1 of 2 tasks done")
    assert chain[2].startswith("build.x is running")
    assert chain[-1] == "no daemon is running on this folder, so nothing moves; `reconciler run` starts one"


def test_why_a_task_is_where_it_is(folder: Path) -> None:
    """One task of a run can be asked about."""
    chain = reconciler("why", SOURCED, "setup", "--json", "--dir", folder).json["chain"]
    assert chain == [f"run {SOURCED} of econ/nightly is Failed", "setup failed"]


def test_why_an_object(folder: Path) -> None:
    """Of an object that is no run, what the daemon last said."""
    assert reconciler("why", "econ", "--dir", folder).out.splitlines()[0] == "Source/econ: Unreachable: no route to host"


def test_watch_of_a_run_that_has_ended(folder: Path) -> None:
    """It says how it ended, and leaves with 0, or as the run did with --exit-status."""
    plain = reconciler("watch", "econ/nightly", "--dir", folder)
    assert (plain.code, plain.out.splitlines()[-1]) == (0, f"run {SOURCED} of econ/nightly ended: Failed after 10 s")
    assert reconciler("watch", SOURCED, "--exit-status", "--dir", folder).code == 1
    assert reconciler("watch", OLD, "--exit-status", "--dir", folder).code == 0


def test_watch_as_json_is_one_object_a_line(folder: Path) -> None:
    """Events come first, the run last."""
    lines = [json.loads(line) for line in reconciler("watch", SOURCED, "--json", "--dir", folder).out.splitlines()]
    assert [line.get("name") or line["phase"] for line in lines] == ["TaskFailed", "Failed"]


def test_a_folder_with_nothing_yet(tmp_path: Path) -> None:
    """With no ledger there is nothing, which is no error."""
    (tmp_path / "settings.yaml").write_text("apiVersion: scripthut/v1\nkind: Settings\nmetadata: {name: lab}\n")
    result = reconciler("get", "--dir", tmp_path)
    assert (result.code, result.out.splitlines()[0][:20]) == (0, "nothing is there yet")
    assert reconciler("get", "--json", "--dir", tmp_path).json == {"objects": [], "runs": []}
    assert not (tmp_path / ".state").exists()


def test_the_folder_may_be_named_in_four_ways(folder: Path) -> None:
    """--dir after the verb, --dir before it, RECONCILER_DIR, else the current folder; in this order."""
    expected = reconciler("get", "--json", "--dir", folder).out
    elsewhere = {"RECONCILER_DIR": "/nowhere"}
    assert reconciler("--dir", folder, "get", "--json", env=elsewhere).out == expected
    assert reconciler("get", "--json", env={"RECONCILER_DIR": str(folder)}).out == expected
    assert reconciler("get", "--json", cwd=folder).out == expected


@pytest.mark.parametrize("words", [["nonsense"], ["get", "--nonsense"], ["watch"], ["get", "--dir", "/nowhere"], ["logs", "x"]])
def test_wrong_usage_is_two(words: list[str]) -> None:
    """A verb, option or folder that does not exist is wrong usage."""
    result = reconciler(*words)
    assert (result.code, result.out) == (2, "") and result.err


def test_every_verb_documents_its_exit_codes() -> None:
    """The help of every verb says what its exit codes mean."""
    from reconciler.cli import VERBS

    shown = reconciler("--help")
    assert (shown.code, [verb for verb in VERBS if f"\n  {verb} " not in shown.out]) == (0, [])
    silent = [verb for verb in VERBS if "exit codes: 0" not in " ".join(reconciler(verb, "--help").out.lower().split())]
    assert silent == []


def test_reading_needs_no_heavy_packages(folder: Path) -> None:
    """`get` starts without pydantic, libgit2, YAML, watchers and the daemon."""
    code = "import sys; from reconciler.cli import run_verb; run_verb(['get', '--dir', sys.argv[1]]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    heavy = {"pydantic", "pygit2", "ruamel", "ruamel.yaml", "watchfiles", "structlog", "rich", "asyncio", "reconciler.daemon"}
    assert heavy & set(done.stderr.split()) == set()


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    """`reconciler get | head -0` is silent."""
    command = f"{sys.executable} -m reconciler events --limit 100000 --dir {folder} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
