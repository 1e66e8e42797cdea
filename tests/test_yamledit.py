"""One field of a file is changed, and every other character stays as its owner wrote it."""

from __future__ import annotations

import copy

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reconciler.errors import ManifestError
from reconciler.yamledit import remove_field, set_field
from reconciler.yamlemit import dump
from reconciler.yamlfile import parse

FILE = """\
# my workflow
apiVersion: scripthut/v1   # v1
kind: Workflow
metadata: {name: diamond,   labels: {team: "econ"}}
spec:
  # where
  backend: hpc  # the big one

  title: 'A "title"'
  # the tasks, with a long line that nobody wants to see folded, whatever the width of somebody's terminal may be, not even here
  tasks:
    - {id: setup,   command: bash setup.sh}
    - id: b
      command: |
        foo

      # end
---
kind: Source
metadata:
    name: ml
spec:
    suspend:   # for now
        # because
        reason: x
        until: y  # u
    git: {url: "https://x/y", branch: main}
---
{kind: Run, metadata: {name: r}, spec: {run: '1', }}
"""
WORKFLOW, SOURCE, RUN = ("Workflow", "diamond"), ("Source", "ml"), ("Run", "r")
FORMS = {
    "lf": FILE,
    "crlf": FILE.replace("\n", "\r\n"),
    "no final line break": FILE.rstrip("\n"),
    "crlf, no final line break": FILE.rstrip("\n").replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + FILE,
}

# (document, path, value) -> lines taken out, lines put in. A value of None: the field is removed.
EDITS = [
    (WORKFLOW, "spec.rerun", "again 1", [], ['  rerun: "again 1"']),
    (WORKFLOW, "spec.backend", "loc", ["  backend: hpc  # the big one"], ["  backend: loc  # the big one"]),
    (WORKFLOW, "spec.title", "x: y", ["  title: 'A \"title\"'"], ['  title: "x: y"']),
    (WORKFLOW, "metadata.labels.x", 1, [FILE.splitlines()[3]], ['metadata: {name: diamond,   labels: {team: "econ", x: 1}}']),
    (WORKFLOW, "metadata.labels.team", None, [FILE.splitlines()[3]], ["metadata: {name: diamond,   labels: {}}"]),
    (WORKFLOW, "spec.backend", None, ["  backend: hpc  # the big one"], []),
    (WORKFLOW, "spec.nowhere.deep", None, [], []),
    (
        SOURCE,
        "spec.suspend",
        {"reason": "new disk", "by": "ann"},
        ["    suspend:   # for now", "        reason: x", "        until: y  # u"],
        ['    suspend: {reason: "new disk", by: ann}   # for now'],
    ),
    (SOURCE, "spec.suspend", None, ["    suspend:   # for now", "        # because", "        reason: x", "        until: y  # u"], []),
    (SOURCE, "spec.suspend.by", "ann", [], ["        by: ann"]),
    (SOURCE, "spec.suspend.until", None, ["        until: y  # u"], []),
    (SOURCE, "spec.limits.delete_guard.share", 0.5, [], ["    limits: {delete_guard: {share: 0.5}}"]),
    (SOURCE, "spec.git.branch", None, ['    git: {url: "https://x/y", branch: main}'], ['    git: {url: "https://x/y"}']),
    (SOURCE, "spec.git.url", None, ['    git: {url: "https://x/y", branch: main}'], ["    git: {branch: main}"]),
    (SOURCE, "spec.git", None, ['    git: {url: "https://x/y", branch: main}'], []),
    (SOURCE, "metadata.name", None, ["metadata:", "    name: ml"], ["metadata: {}"]),
    (
        RUN,
        "spec.state",
        "cancelled",
        ["{kind: Run, metadata: {name: r}, spec: {run: '1', }}"],
        ["{kind: Run, metadata: {name: r}, spec: {run: '1', state: cancelled, }}"],
    ),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("which", "path", "value", "out", "put"), EDITS, ids=[f"{edit[0][0]} {edit[1]} {edit[2]}" for edit in EDITS])
def test_only_the_lines_of_the_field_change(
    form: str, which: tuple[str, str], path: str, value: object, out: list[str], put: list[str]
) -> None:
    """Setting or removing a field changes its own lines and nothing else: comments, quotes, spaces, line breaks and the end of the file."""
    text = FORMS[form]
    steps = tuple(path.split("."))
    edited = remove_field(text, which, steps) if value is None else set_field(text, which, steps, value)
    line_break = "\r\n" if "\r\n" in text else "\n"
    before, after = text.split(line_break), edited.split(line_break)
    assert "\n" not in edited.replace(line_break, "")
    taken = list(after)
    for line in put:
        taken.remove(line)
    for line in out:
        assert line in before
        before.remove(line)
    assert taken == before


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("spec:\n", ("spec", "a"), 'spec: {a: "v w"}\n'),
        ("spec: # c\nb: 1\n", ("spec", "a"), 'spec: {a: "v w"} # c\nb: 1\n'),
        ("a:\nb: 1\n", ("a",), 'a: "v w"\nb: 1\n'),
        ("{spec}", ("spec", "a"), '{spec: {a: "v w"}}'),
        ("{spec: }", ("b",), '{spec: , b: "v w" }'),
        ("{}", ("b",), '{b: "v w"}'),
        ("a: |+\n  x\n\n", ("b",), 'a: |+\n  x\n\nb: "v w"\n'),
        ("a: |+\n  x\n\nc: 1\n", ("a",), 'a: "v w"\nc: 1\n'),
        ("a: >-\n  x\n  y\nb: 1", ("a",), 'a: "v w"\nb: 1'),
        ("a:\n- x\n- y\nb: 1", ("a",), 'a: "v w"\nb: 1'),
        ('"a:b":\n  c: 1\n', ("a:b", "d"), '"a:b":\n  c: 1\n  d: "v w"\n'),
        ('"a:b":\n  c: 1\n', ("a:b",), '"a:b": "v w"\n'),
        ("a: 'it''s\n  x'\nb: 1", ("a",), 'a: "v w"\nb: 1'),
        ("? a\n: b\n", ("a",), '? a\n: "v w"\n'),
        ("a: 1", ("b",), 'a: 1\nb: "v w"'),
        ("# c\n\na:\n  # d\n  b:\n    - 1\n  # e\n", ("a", "c"), '# c\n\na:\n  # d\n  b:\n    - 1\n  c: "v w"\n  # e\n'),
    ],
)
def test_values_of_every_form_can_be_set(text: str, path: tuple[str, ...], expected: str) -> None:
    """Whatever a field looks like (missing, empty, quoted, a block, in braces), it can be set."""
    assert set_field(text, 0, path, "v w") == expected


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("a: 1\nb: 2", ("b",), "a: 1"),
        ("a: 1\r\nb:\r\n- 2", ("b",), "a: 1"),
        ("a: 1\nb: 2\n", ("b",), "a: 1\n"),
        ("a: 1\nb: |+\n  x\n\n", ("b",), "a: 1\n"),
        ("a: |+\n  x\n\nb: 1\n", ("a",), "b: 1\n"),
        ("a: {b: 1}\n", ("a", "b"), "a: {}\n"),
        ("a: {b: 1, c: 2 }\n", ("a", "c"), "a: {b: 1 }\n"),
        ("a:\n  b: 1  # c\nd: 1\n", ("a", "b"), "a: {}\nd: 1\n"),
        ("a: 1\n", ("b", "c"), "a: 1\n"),
    ],
)
def test_fields_of_every_form_can_be_removed(text: str, path: tuple[str, ...], expected: str) -> None:
    """Whatever a field looks like, its lines go, and the end of the file stays as it was: with a line break or without."""
    assert remove_field(text, 0, path) == expected


@pytest.mark.parametrize(
    ("text", "which", "path", "message"),
    [
        ("a: [\n", 0, ("a",), "never closed"),
        ("a: &x 1\n", 0, ("a",), "the anchor &x"),
        ("a: 1\n", 1, ("a",), "holds no document 1"),
        ("- 1\n", 0, ("a",), "holds no document 0"),
        ("kind: W\n", ("W", "x"), ("a",), "holds no W/x"),
        ("kind: W\nmetadata: {name: x}\n---\nkind: W\nmetadata: {name: x}\n", ("W", "x"), ("a",), "holds W/x twice"),
        ("a: text\n", 0, ("a", "b"), "a is no mapping"),
        ("a: [1]\n", 0, ("a", "b"), "a is no mapping"),
        ("? a\nb: 1\n", 0, ("a",), "cannot be changed"),
    ],
)
def test_what_cannot_be_edited_is_said(text: str, which: int | tuple[str, str], path: tuple[str, ...], message: str) -> None:
    """A broken file, a document that is not there, or a field in a text: an error that names the place, and no new text."""
    with pytest.raises(ManifestError, match=message):
        set_field(text, which, path, 1)


KEYS = st.sampled_from(["a", "b", "c d", "e:", "#f", "ü"])
SCALARS = st.sampled_from(["x", "two words", "a: b", "# no", "l1\nl2\n", "", "12", 12, 1.5, True, None, "x" * 200])
TREES = st.dictionaries(
    KEYS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8),
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(TREES, st.lists(KEYS, min_size=1, max_size=3), TREES | SCALARS, st.sampled_from(["block", "rows", "crlf", "cut"]), st.booleans())
def test_any_edit_of_any_file_changes_only_that_field(
    tree: dict[str, object], path: list[str], value: object, form: str, remove: bool
) -> None:
    """For any document, layout and field: the result holds the same data but for that field, and the rest of the text is kept."""
    text = "# top\n" + dump(tree, rows=frozenset(tree) if form == "rows" else frozenset()) + "# end\n"
    text = text.replace("\n", "\r\n") if form == "crlf" else text[: -len("\n# end\n")] if form == "cut" else text
    expected = copy.deepcopy(tree)
    at = expected
    for step in path[:-1]:
        inner = at.get(step)
        if inner is None:
            if remove:
                break
            inner = at[step] = {}
        assume(isinstance(inner, dict))
        assert isinstance(inner, dict)
        at = inner
    else:
        if remove:
            at.pop(path[-1], None)
        else:
            at[path[-1]] = value
    if remove and tree and not expected:
        return  # the last field of a document: nobody asks for that
    edited = remove_field(text, 0, tuple(path)) if remove else set_field(text, 0, tuple(path), value)
    assert parse(edited.encode(), "f").documents[0].data == expected
    assert edited.startswith("# top")
    assert form == "cut" or edited.rstrip("\r\n").endswith("# end")
