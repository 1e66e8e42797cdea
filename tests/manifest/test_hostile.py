"""Each limit against a file made to break it: bounded time and memory, an answer in words, and the loader goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MB = 1_000_000
HEAD = b"apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {name: x}\n"
REPOSITORY = Path(__file__).parents[2]


def fill(unit: bytes, head: bytes = b"", tail: bytes = b"") -> bytes:
    """As many of `unit` as fit into the largest file that is read."""
    return head + unit * ((MB - len(head) - len(tail)) // len(unit)) + tail


def laughs() -> bytes:
    """Nine levels of nine aliases: 430 bytes that are a billion strings once somebody prints them."""
    levels = [b'a0: &a0 ["lol"]'] + [b"a%d: &a%d [%s]" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)]
    return b"\n".join(levels)


# name -> (how the file is made, what its first problem says)
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "laughs.yaml": (laughs, "is not a manifest"),
    "cycle.yaml": (lambda: HEAD + b"spec: &x {tasks: *x}\n", "the anchor &x is not accepted"),
    "merge.yaml": (lambda: HEAD + b"spec: {<<: {tasks: []}}\n", "a merge key (<<) is not accepted"),
    "brackets.yaml": (lambda: fill(b"["), "nested more than 50 deep"),
    "braces.yaml": (lambda: fill(b"{a: "), "nested more than 50 deep"),
    "dashes.yaml": (lambda: fill(b"- "), "nested more than 50 deep"),
    "questions.yaml": (lambda: fill(b"? "), "nested more than 50 deep"),
    "staircase.yaml": (lambda: b"".join(b" " * n + b"a:\n" for n in range(1400)), "nested more than 50 deep"),
    "documents.yaml": (lambda: b"---\n" * 100_000, "more than 10,000 documents"),
    "ends.yaml": (lambda: fill(b"--- a\n...\n"), "more than 10,000 documents"),
    "directives.yaml": (lambda: fill(b"%A\n"), "more than 120,000 words"),
    "items.yaml": (lambda: fill(b"- 1\n"), "more than 120,000 words"),
    "keys.yaml": (lambda: fill(b"a: 1\n"), "more than 120,000 words"),
    "flow.yaml": (lambda: fill(b"a,", b"{"), "more than 120,000 words"),
    "pipes.yaml": (lambda: fill(b"|\n"), "a manifest is a mapping"),
    "large.yaml": (lambda: b"#" * (50 * MB), "the file has 50,000,000 bytes"),
    "number.yaml": (lambda: HEAD + b"spec: {tasks: [{id: a, command: x, cpus: %s}]}" % (b"9" * 5000), "more than 64 bits"),
    "zeros.yaml": (lambda: HEAD + b"spec: {tasks: [{id: a, command: x, cpus: %s}]}" % (b"0" * 500_000), "is at least 1"),
    "nan.yaml": (lambda: HEAD + b"spec: {tasks: [{id: a, command: x, time_limit: .nan}]}", ".nan is not accepted as a number"),
    "scalar.yaml": (
        lambda: fill(b"x y ", HEAD + b"spec: {tasks: [{id: a, command: x, name: ", b"}]}"),
        "spec.tasks[0].name has at most 1,000 characters",
    ),
    "key.yaml": (lambda: HEAD + b"spec: {tasks: [{id: a, command: x}], ? %s : 1}" % (b"k" * 900_000), "unknown key kkkk"),
    "anchor.yaml": (lambda: fill(b"a", HEAD + b"spec: &"), "the anchor &aaaa"),
    "unknown.yaml": (lambda: HEAD + b"spec:\n" + b"".join(b"  key%d: 1\n" % n for n in range(28_000)), "spec.tasks is missing"),
    "errors.yaml": (lambda: HEAD + b"spec:\n  tasks:\n" + b"    - {idd: 1}\n" * 13_000, "id is missing"),
    "kinds.yaml": (lambda: b"--- {apiVersion: scripthut/v1, kind: Workflou}\n" * 8_000, "unknown kind Workflou"),
    "blank.yaml": (lambda: fill(b"\n", b"a: |+\n"), "is not a manifest"),
    "quoted.yaml": (lambda: fill(b"x\n", b'a: "'), "a quote is opened here and never closed"),
    "brackets.json": (lambda: fill(b"["), "nested more than 50 deep"),
    "open.json": (lambda: fill(b'\\"', b'["'), "a quote is opened here and never closed"),
    "values.json": (lambda: fill(b"1,", b"[", b"1]"), "more than 250,000 keys and values"),
    "texts.json": (lambda: b"[" + b",".join([b'"a"'] * 240_000) + b"]", "needs keys with values"),
    "empties.json": (lambda: b"[" + b",".join([b"{}"] * 240_000) + b"]", "id is missing"),
    "unknown.json": (lambda: b"{" + b",".join(b'"k%d":1' % n for n in range(90_000)) + b"}", "90,001 fields are not valid"),
    "number.json": (lambda: b'[{"id": "a", "command": "x", "cpus": %s}]' % (b"9" * 900_000), "more than 64 bits"),
}


GROUPS = [list(FILES)[start : start + 7] for start in range(0, len(FILES), 7)]


@pytest.mark.parametrize("names", GROUPS, ids=[f"{group[0]}..{group[-1]}" for group in GROUPS])
def test_a_hostile_file_costs_little_and_hurts_no_other(names: list[str], tmp_path: Path) -> None:
    """A file made to exhaust time or memory is refused within 100 MB and a bounded time, and the next file is read as always."""
    for name in names:
        (tmp_path / name).write_bytes(FILES[name][0]())
    command = [sys.executable, "-m", "tests.manifest.hostile_load", *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, "")
    results = {result["file"]: result for result in map(json.loads, done.stdout.splitlines())}
    assert {name: "died" for name in names if "died" in results[name]} == {}
    for name in names:
        result = results[name]
        assert [problem for problem in result["problems"] if FILES[name][1] in problem] != [], name
        assert len(result["problems"]) <= 201
        assert sum(map(len, result["problems"])) < 100_000
        assert (result["documents"], result["after"]) == ([], ["good"])
