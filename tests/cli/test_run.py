"""`demo`, `run --once`, `plan`, `validate`, `logs`, `watch` and `recover`, end to end: a real daemon, real jobs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import REPOSITORY, SETTINGS, reconciler

DEADLINE_S = 30.0


def workflow(name: str, *tasks: str, more: str = "") -> str:
    rows = "".join(f"    - {task}\n" for task in tasks)
    return f"apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {{name: {name}}}\nspec:\n{more}  tasks:\n{rows}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trusted folder with Settings and one workflow of one task, `a`."""
    path = tmp_path / "trusted"
    path.mkdir()
    (path / "settings.yaml").write_text(SETTINGS)
    (path / "w.yaml").write_text(workflow("w", "{id: a, command: echo hello}"))
    return path


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def started(*arguments: str | Path, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "reconciler", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_demo_runs_and_prints_its_status_file(tmp_path: Path) -> None:
    """`demo DIR` ends in a finished run, shows each step, prints the run's status file and says what to look at next."""
    result = reconciler("demo", tmp_path / "demo", timeout=DEADLINE_S)
    assert (result.code, result.err) == (0, "")
    assert "TaskSucceeded merge" in result.out and "ended: Succeeded" in result.out
    [status] = (tmp_path / "demo" / "status" / "run").iterdir()
    assert status.read_text() in result.out and "phase: Succeeded" in result.out
    assert f"reconciler --dir {tmp_path / 'demo'} get" in result.out


def test_demo_without_a_folder_names_the_one_it_makes(tmp_path: Path) -> None:
    """A fresh temporary folder is made and named, and a second pass over it does nothing."""
    result = reconciler("demo", env={"TMPDIR": str(tmp_path)}, timeout=DEADLINE_S)
    folder = Path(re.findall(r": (/\S+reconciler-demo-\S+)\n", result.out)[0])
    assert (result.code, (folder / "settings.yaml").exists()) == (0, True)
    again = reconciler("run", "--once", folder, timeout=DEADLINE_S)
    assert (again.code, "RunCreated" in again.err) == (0, False)
    assert len(reconciler("get", "runs", "--json", "--dir", folder).json["runs"]) == 1


def test_run_once_ends_well(folder: Path) -> None:
    """Everything asked for is run to its end: exit code 0, and what was printed can be read."""
    assert reconciler("run", "--once", folder, timeout=DEADLINE_S).code == 0
    assert reconciler("logs", "w", "a", "--dir", folder).out == "hello\n"


def test_run_once_with_a_failed_run(folder: Path) -> None:
    """A run that failed is exit code 1, and its object is named with file:line."""
    (folder / "bad.yaml").write_text(workflow("bad", '{id: a, command: "exit 3"}'))
    result = reconciler("run", "--once", folder, timeout=DEADLINE_S)
    assert result.code == 1
    assert any("bad.yaml:1" in line and "Workflow/bad" in line for line in result.err.splitlines())


def test_run_once_with_a_stalled_object(folder: Path) -> None:
    """An object that only a person can move is exit code 1, named with file:line; the others run."""
    (folder / "bad.yaml").write_text(workflow("bad", "{id: a, command: echo, depz: [b]}"))
    result = reconciler("run", "--once", folder, timeout=DEADLINE_S)
    assert (result.code, "bad.yaml:6:" in result.err) == (1, True)
    assert reconciler("logs", "w", "a", "--dir", folder).out == "hello\n"


@pytest.mark.parametrize("verb", [["run", "--once"], ["plan"], ["get"], ["logs", "w", "a"]])
def test_unusable_settings_are_two(folder: Path, verb: list[str]) -> None:
    """Settings that cannot be used end every verb that needs them with 2, and file:line:column."""
    (folder / "settings.yaml").write_text(SETTINGS + "spec: {state_dir: .state, listn: x}\n")
    if verb[0] == "logs":  # it looks the run up in the ledger first, and which that is the Settings say
        verb = ["--dir", str(folder), *verb]
    result = reconciler(*verb, *([] if verb[0] == "--dir" else ["--dir", folder]))
    assert (result.code, result.out, result.err.startswith("settings.yaml:4:")) == (2, "", True), result.err


def test_plan_says_what_and_why(folder: Path) -> None:
    """Something to do is exit code 1 and a line for it; nothing to do is 0; a manifest that is wrong is 2."""
    first = reconciler("plan", folder)
    assert first.code == 1
    assert re.fullmatch(r"\+ run [0-9a-f]{12} of w: no run of sha256:[0-9a-f]{12} exists; 1 task on local; w.yaml:1\n", first.out)
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    second = reconciler("plan", folder)
    assert (second.code, second.out) == (0, "nothing to do: 1 workflows are as they should be\n")
    (folder / "w.yaml").write_text(workflow("w", "{id: a, command: echo hello}  # said so"))
    assert reconciler("plan", folder).code == 0
    (folder / "w.yaml").write_text(workflow("w", "{id: a, command: echo bye}"))
    planned = reconciler("plan", "--json", folder)
    assert (planned.code, [each["workflow"] for each in planned.json["create"]]) == (1, ["w"])
    (folder / "w.yaml").write_text(workflow("w", "{id: a}"))
    wrong = reconciler("plan", folder)
    assert (wrong.code, wrong.err.startswith("w.yaml:6:")) == (2, True)


def test_plan_changes_nothing(tmp_path: Path, folder: Path) -> None:
    """No ledger, no status file, nothing at all is written."""
    reconciler("plan", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["settings.yaml", "w.yaml"]


def test_validate_says_every_problem_at_once(folder: Path) -> None:
    """Every problem of every file is told with file:line:column, exit code 1; without any, 0. Offline, and with no state."""
    assert (reconciler("validate", folder).code, reconciler("validate", cwd=folder).code) == (0, 0)
    (folder / "a.yaml").write_text(workflow("x", "{id: a, command: echo, cpuz: 4}", "{id: b}"))
    (folder / "b.yaml").write_text(workflow("cycle", "{id: a, command: echo, deps: [b]}", "{id: b, command: echo, deps: [a]}"))
    (folder / "c.yaml").write_text("kind: [\n")
    result = reconciler("validate", folder)
    assert result.code == 1
    for place in ("a.yaml:6:", "a.yaml:7:", "b.yaml:", "c.yaml:"):
        assert place in result.err
    rows = reconciler("validate", "--json", folder).json["problems"]
    assert {row["file"] for row in rows} == {"a.yaml", "b.yaml", "c.yaml"} and all(row["message"] for row in rows)
    assert not (folder / ".state").exists()


def test_validate_with_unusable_settings_tells_the_rest_too(folder: Path) -> None:
    """The problems of the Settings do not hide those of other files."""
    (folder / "settings.yaml").write_text(SETTINGS + "spec: {listn: x}\n")
    (folder / "w.yaml").write_text(workflow("w", "{id: a}"))
    result = reconciler("validate", folder)
    assert (result.code, [line.split(":")[0] for line in result.err.splitlines()]) == (1, ["settings.yaml", "w.yaml"])


def test_validate_reads_sources_with_a_path(folder: Path, tmp_path: Path) -> None:
    """What a `path:` source brings is checked; one that is not there is said; a git source is not asked."""
    source = "apiVersion: scripthut/v1\nkind: Source\nmetadata: {name: near}\nspec: {path: ../near, include: ['*.yaml']}\n"
    (folder / "near.yaml").write_text(source)
    missing = reconciler("validate", folder)
    assert (missing.code, "source near was not read" in missing.err) == (1, True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "x.yaml").write_text(workflow("x", "{id: a}"))
    wrong = reconciler("validate", folder)
    assert (wrong.code, wrong.err.startswith("near:x.yaml:6:")) == (1, True)
    (tmp_path / "near" / "x.yaml").write_text(workflow("x", "{id: a, command: echo}"))
    assert reconciler("validate", folder).code == 0


def test_status_files_are_no_manifests(folder: Path) -> None:
    """After a run the folder is full of status files, and every verb still reads the manifests only."""
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    assert (folder / "status" / "settings" / "lab.yaml").exists()
    assert reconciler("validate", folder).code == 0
    assert reconciler("run", "--once", folder, timeout=DEADLINE_S).code == 0
    assert reconciler("approve", "w", "--dir", folder).code == 0
    (folder / "settings.yaml").write_text(SETTINGS + "spec: {listn: x}\n")
    assert [line.split(":")[0] for line in reconciler("validate", folder).err.splitlines()] == ["settings.yaml"]


def test_another_state_folder_is_found_by_the_read_verbs(folder: Path, tmp_path: Path) -> None:
    """`state_dir` of the Settings is where the read verbs look."""
    (folder / "settings.yaml").write_text(SETTINGS + "spec: {state_dir: ../kept, status_dir: ../said}\n")
    assert reconciler("run", "--once", folder, timeout=DEADLINE_S).code == 0
    assert (tmp_path / "kept" / "ledger.sqlite3").exists() and not (folder / ".state").exists()
    assert [run["phase"] for run in reconciler("get", "runs", "--json", "--dir", folder).json["runs"]] == ["Succeeded"]


def test_logs_out_err_tail_and_attempts(folder: Path) -> None:
    """Standard output and error apart, the last lines of a long file, and an earlier attempt."""
    lines = "{id: long, command: 'seq 100000; echo oops >&2'}"
    again = "{id: again, command: 'test -e ../seen && echo second || { echo first; touch ../seen; exit 1; }', retry: {limit: 1}}"
    (folder / "w.yaml").write_text(workflow("w", lines, again))
    assert reconciler("run", "--once", folder, timeout=DEADLINE_S).code == 0
    whole = reconciler("logs", "w", "long", "--dir", folder).out
    assert whole == "".join(f"{number}\n" for number in range(1, 100001))
    assert reconciler("logs", "w", "long", "--tail", "3", "--dir", folder).out == "99998\n99999\n100000\n"
    assert reconciler("logs", "w", "long", "--tail", "0", "--dir", folder).out == ""
    assert reconciler("logs", "w", "long", "--err", "--dir", folder).out == "oops\n"
    assert reconciler("logs", "w", "again", "--dir", folder).out == "second\n"
    assert reconciler("logs", "w", "again", "--attempt", "1", "--json", "--dir", folder).json["text"] == "first\n"


def test_logs_of_what_never_started(folder: Path) -> None:
    """A task that never ran has no log: exit code 1, and it says so. One that is no task is named with the nearest."""
    tasks = ('{id: first, command: "false"}', "{id: second, command: echo, deps: [first]}")
    (folder / "w.yaml").write_text(workflow("w", *tasks))
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    result = reconciler("logs", "w", "second", "--dir", folder)
    assert (result.code, result.out, "has no out" in result.err) == (1, "", True)
    wrong = reconciler("logs", "w", "secnd", "--dir", folder)
    assert (wrong.code, "did you mean second?" in wrong.err) == (1, True)


def test_follow_a_task_and_its_run(folder: Path, tmp_path: Path) -> None:
    """`logs -f` prints what comes until the task ends; `watch` one line for each change until the run ends; the daemon stops on SIGTERM."""
    go = tmp_path / "go"
    command = f"echo begun; while ! test -e {go}; do sleep 0.05; done; echo done"
    (folder / "w.yaml").write_text(workflow("w", f"{{id: a, command: '{command}'}}"))
    daemon = started("run", folder)
    try:
        until(lambda: "running" in reconciler("get", "w", "--dir", folder).out, "the task runs")
        watching, reading = started("watch", "w", "--exit-status", "--dir", folder), started("logs", "w", "a", "-f", "--dir", folder)
        assert reading.stdout is not None and reading.stdout.readline() == "begun\n"
        assert reconciler("why", "w", "a", "--dir", folder).out.splitlines()[1].strip().startswith("└ a is running")
        go.touch()
        assert (reading.communicate(timeout=DEADLINE_S)[0], reading.returncode) == ("done\n", 0)
        seen = watching.communicate(timeout=DEADLINE_S)[0].splitlines()
        assert (watching.returncode, "TaskSucceeded a" in seen[-2], "ended: Succeeded" in seen[-1]) == (0, True, True)
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=DEADLINE_S)
    assert daemon.returncode == 0, said


def test_follow_goes_on_with_the_next_attempt(folder: Path, tmp_path: Path) -> None:
    """`logs -f` of a task that is tried again prints the next attempt too, and says so on standard error."""
    go = tmp_path / "go"
    once = f"test -e {go}2 && echo second || {{ touch {go}2; echo first; exit 1; }}"
    command = f"echo begun; while ! test -e {go}; do sleep 0.05; done; {once}"
    (folder / "w.yaml").write_text(workflow("w", f"{{id: a, command: '{command}', retry: {{limit: 1, backoff: 1s}}}}"))
    daemon = started("run", folder)
    try:
        until(lambda: "running" in reconciler("get", "w", "--dir", folder).out, "the task runs")
        reading = started("logs", "w", "a", "-f", "--dir", folder)
        assert reading.stdout is not None and reading.stdout.readline() == "begun\n"
        go.touch()
        assert reading.communicate(timeout=DEADLINE_S) == ("first\nbegun\nsecond\n", "-- attempt 2 --\n")
    finally:
        daemon.terminate()
        daemon.communicate(timeout=DEADLINE_S)


def test_watch_in_a_terminal_draws(folder: Path) -> None:
    """In a terminal the progress is drawn: counts, a bar and the tasks; and it ends with how the run ended."""
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    ours, theirs = pty.openpty()
    process = started("watch", "w", "--dir", folder, stdout=theirs)
    os.close(theirs)
    drawn = b""
    while select.select([ours], [], [], DEADLINE_S)[0]:
        try:
            drawn += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0
    process.communicate()
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", drawn).decode()
    assert "1 succeeded" in text and "ended: Succeeded" in text and "━" in text


def test_recover_a_lost_ledger(folder: Path) -> None:
    """A daemon that finds traces but no ledger refuses; `recover` rebuilds it; nothing runs before `approve`, and nothing twice."""
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    before = reconciler("get", "runs", "--json", "--dir", folder).json["runs"]
    well = reconciler("recover", "--dir", folder)
    assert (well.code, "--replace" in well.err) == (1, True)
    for path in (folder / ".state").glob("ledger*"):
        path.unlink()
    refused = reconciler("run", "--once", folder, timeout=DEADLINE_S)
    assert (refused.code, "StateLost" in refused.err) == (1, True)
    recovered = reconciler("recover", "--json", "--dir", folder)
    assert (recovered.code, recovered.json["runs"]) == (0, 1), recovered.err
    again = reconciler("recover", "--replace", "--json", "--dir", folder)
    assert (again.code, again.json["runs"]) == (0, 1), again.err
    (folder / "new.yaml").write_text(workflow("new", "{id: a, command: echo new}"))
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    runs = reconciler("get", "runs", "--json", "--dir", folder).json["runs"]
    assert [(run["id"], run["phase"]) for run in runs] == [(run["id"], run["phase"]) for run in before]
    assert reconciler("approve", "new", "--dir", folder).code == 0
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    assert reconciler("logs", "new", "a", "--dir", folder).out == "new\n"


def test_recover_from_nothing(folder: Path) -> None:
    """Where there never was a ledger there is nothing to recover, and nothing is written."""
    result = reconciler("recover", "--dir", folder)
    assert (result.code, "nothing to recover from" in result.err) == (1, True)
    assert not (folder / ".state").exists()


def test_schema_is_a_json_schema() -> None:
    """`schema` prints one schema for all kinds, or for one."""
    whole = json.loads(reconciler("schema").out)
    assert {"Settings", "Workflow", "Run"} <= set(whole["$defs"])
    one = reconciler("schema", "workflow")
    assert (one.code, one.json["$ref"]) == (0, "#/$defs/Workflow")
    assert reconciler("schema", "workflo").code == 1


def test_the_local_backend_stays_on_the_list(folder: Path) -> None:
    """The backend that is there without a document is still shown when the manifests change under a running daemon."""

    def ended() -> int:
        return sum(run["phase"] == "Succeeded" for run in reconciler("get", "runs", "--json", "--dir", folder).json["runs"])

    daemon = started("run", folder)
    try:
        until(lambda: ended() == 1, "the first run ends")
        (folder / "w.yaml").write_text(workflow("w", "{id: a, command: echo bye}"))
        until(lambda: ended() == 2, "the second run ends")
        assert [each["name"] for each in reconciler("get", "backends", "--json", "--dir", folder).json["objects"]] == ["local"]
    finally:
        daemon.terminate()
        daemon.communicate(timeout=DEADLINE_S)


def test_why_names_what_is_suspended(folder: Path, tmp_path: Path) -> None:
    """A run that waits because its Source is suspended says so."""
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "x.yaml").write_text(workflow("x", "{id: a, command: echo}"))
    head = "apiVersion: scripthut/v1\nkind: Source\nmetadata: {name: near}\nspec:\n  path: ../near\n  include: ['*.yaml']\n"
    (folder / "near.yaml").write_text(head)
    assert reconciler("run", "--once", folder, timeout=DEADLINE_S).code == 0
    assert reconciler("suspend", "near", "--reason", "holidays", "--dir", folder).code == 0
    assert reconciler("rerun", "near/x", "--dir", folder).code == 0
    reconciler("run", "--once", folder, timeout=DEADLINE_S)
    assert "Source near is suspended" in reconciler("why", "near/x", "--dir", folder).out
