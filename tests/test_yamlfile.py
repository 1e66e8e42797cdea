"""YAML and JSON text becomes plain data with positions, or problems in words; and plain data becomes YAML text."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from reconciler.jsonfile import parse_json
from reconciler.yamlfile import dump, parse
from reconciler.yamltree import DEPTH_MAX, DOCUMENTS_MAX, FILE_BYTES_MAX, PROBLEMS_MAX, Parsed


def data_of(text: str) -> object:
    parsed = parse(text.encode(), "f.yaml")
    assert parsed.problems == ()
    assert len(parsed.documents) == 1
    return parsed.documents[0].data


def told(parsed: Parsed) -> list[str]:
    return [str(problem) for problem in parsed.problems]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-0x1F", "-0x1F"),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("2:00:00", "2:00:00"),
        ("190:20:30", "190:20:30"),
        ("2026-11-20", "2026-11-20"),
        ("2026-11-20T18:03:11Z", "2026-11-20T18:03:11Z"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("9223372036854775807", 2**63 - 1),
        ("1e", "1e"),
        ("=", "="),
        ("build.*", "build.*"),
    ],
)
def test_scalars_are_yaml_1_2(written: str, meant: object) -> None:
    """A scalar is what the core schema of YAML 1.2 says: dates, clock times and `no` stay text."""
    data = data_of(f"k: {written}\n")
    assert isinstance(data, dict)
    assert (data["k"], type(data["k"])) == (meant, type(meant))


def test_every_key_and_value_has_its_place() -> None:
    """Line and column of keys and values are those of the file, also in brackets, in further documents and behind a byte order mark."""
    text = "\ufeff# c\nkind: A\nspec:\n  tasks:\n    - {id: a, deps: [b, c]}\n    - id: d\n      empty:\n---\n\nkind: B\n"
    first, second = parse(text.encode(), "f").documents
    assert first.line == 2
    assert first.at(("kind",)) == (2, 7)
    assert first.key_at(("spec", "tasks", 0, "deps")) == (5, 15)
    assert first.at(("spec", "tasks", 0, "deps", 1)) == (5, 25)
    assert first.at(("spec", "tasks", 1)) == (6, 7)
    assert first.at(("spec", "tasks", 1, "empty")) == (7, 13)
    assert first.at(("spec", "tasks", 7, "nowhere")) == (5, 5)
    assert (second.line, second.key_at(("kind",))) == (10, (10, 1))


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_lines_are_counted_for_every_line_break(line_break: str) -> None:
    """The three line breaks of YAML count alike."""
    (document,) = parse(line_break.join(["a: 1", "b:", "  c: 2"]).encode(), "f").documents
    assert document.at(("b", "c")) == (3, 6)


def test_empty_documents_are_skipped() -> None:
    """Documents with nothing but comments are no documents."""
    parsed = parse(b"# one\n---\n# two\n---\na: 1\n---\n...\n", "f")
    assert [document.data for document in parsed.documents] == [{"a": 1}]
    assert (parsed.problems, parsed.broken) == ((), False)
    assert parse(b"", "f") == Parsed(())


# What a person typed -> the one problem. Each is a mistake that people make.
SYNTAX = {
    "a: [1, 2\nb: 3\n": "f:2:2: a ',' or ']' is missing here, in the list that opens on line 1",
    "a: [1, 2\n": "f:1:4: a bracket is opened here and never closed",
    "a: {x: [1\n": "f:1:8: a bracket is opened here and never closed",
    "a: {x: 1\nb: 3\n": "f:2:2: a ',' or '}' is missing here, in the mapping that opens on line 1",
    "a:\n\tb: 1\n": "f:2:1: a tab is used to indent",
    "command: echo a: b\n": "f:1:16: a ': ' is not expected here",
    "a: 'x\nb: 1\n": "f:1:4: a quote is opened here and never closed",
    'a: "x\nb: 1\n---\nc: 1\n': "f:1:4: a quote is opened here and never closed",
    'a: "C:\\q"\n': "f:1:8: \\q means nothing in double quotes",
    'a: "\\xZZ"\n': "f:1:7: an escape in double quotes is cut short",
    "a:\n  b: 1\n c: 2\n": "f:3:2: this line does not line up with those it belongs to, which start in column 1 (from line 1 on)",
    "a: @x\n": "f:1:4: a value cannot start with '@'",
    "a: %x\n": "f:1:4: a value cannot start with '%'",
    "deps: [*]\n": "f:1:8: a value cannot start with * or &",
    "a: !<x\n": "f:1:4: a value cannot start with !",
    "a: - b\n": "f:1:4: a '-' entry is not expected here",
    "a: | foo\n": "f:1:6: text may not follow | or > on its line",
    "a: }\n": "f:1:4: a value is missing before }",
    'a: "x" y\n': "f:1:8: something stands after the end of a value",
    "key: value\nlonely\nother: 1\n": "f:2:1: a key without ':'",
    "{a: 1}\nb\n": "f:2:1: the document has ended before this",
    "a: b\n... c\n": "f:2:5: nothing may follow ... on its line",
    "a: |0\n  b\n": "f:1:5: 0 is no indentation",
    '"\\U00110000"\n': "f:1:1: the YAML reader cannot make sense of this file (ValueError)",
}


@pytest.mark.parametrize("text", SYNTAX)
def test_a_syntax_error_is_one_problem_in_plain_words(text: str) -> None:
    """A file broken by syntax gives exactly one problem, where the mistake is, and says that what follows is unknown."""
    parsed = parse(text.encode(), "f")
    assert parsed.broken
    (problem,) = parsed.problems
    assert str(problem).startswith(SYNTAX[text])
    assert problem.cure != ""


def test_documents_before_a_syntax_error_are_kept() -> None:
    """What was read before the broken document is handed out along with the problem."""
    parsed = parse(b"a: 1\n---\nb: 2\n---\nc: }\n---\nd: 4\n", "f")
    assert [document.data for document in parsed.documents] == [{"a": 1}, {"b": 2}]
    assert told(parsed) == ["f:5:4: a value is missing before } (put text that has brackets, braces or commas in quotes)"]
    assert parsed.broken


REFUSED = {
    "a: &x 1\nb: *x\n": ["f:1:4: the anchor &x", "f:2:4: the alias *x"],
    "a: !!python/object:os.system {}\n": ["f:1:4: the tag tag:yaml.org,2002:python/object:os.system"],
    "a: {b: 1}\n<<: {a: 1}\n": ["f:2:1: a merge key"],
    "a: 1\nb: 2\na: 3\n": ["f:3:1: the key a stands twice in one mapping, first on line 1"],
    "a: {b: 1, b: 1}\nc: {d: 1, 'd': 2}\n": ["f:1:11: the key b", "f:2:11: the key d"],
    "1: a\ntrue: b\nnull: c\n": ["f:1:1: the key 1 is not", "f:2:1: the key true is not", "f:3:1: the key null is not"],
    "? [a]\n: b\n{c: d}: e\n": ["f:1:3: a key must be a text", "f:3:1: a key must be a text"],
    f"a: {'9' * 5000}\nb: 0x{'f' * 5000}\n": ["f:1:4: a whole number of more than 64 bits", "f:2:4: a whole number of more than 64 bits"],
    "a: .nan\nb: -.inf\nc: 1e309\n": ["f:1:4: .nan is not accepted", "f:2:4: -.inf is not accepted", "f:3:4: the number is too large"],
    f"a: 1.{'0' * 5000}1\n": ["f:1:4: the number is too large"],
    'a: "x\\0y"\nb: "\\e[31m"\nc: "\\ud800"\n': ["f:1:4: the text holds the control character U+0000", "f:2:4: ", "f:3:4: "],
    "%YAML 1.1\n---\na: no\n": ["f:2:1: a YAML directive is not accepted"],
    "%TAG ! tag:x,2000:\n---\na: 1\n": ["f:2:1: a YAML directive is not accepted"],
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_could_sneak_a_field_in_is_refused(text: str) -> None:
    """Anchors, aliases, tags, merge keys, duplicate and strange keys, and numbers that are none: all of them told, each at its place."""
    parsed = parse(text.encode(), "f")
    assert len(parsed.problems) == len(REFUSED[text])
    for problem, expected in zip(parsed.problems, REFUSED[text], strict=True):
        assert str(problem).startswith(expected)
    assert not parsed.broken


def test_a_refused_document_does_not_hurt_its_neighbours() -> None:
    """Documents around one with an alias are read; the bad one keeps its data for finding out its name."""
    parsed = parse(b"a: 1\n---\nkind: W\nb: &x [*x]\n---\nc: 3\n", "f")
    assert [bool(document.problems) for document in parsed.documents] == [False, True, False]
    assert isinstance(parsed.documents[1].data, dict)
    assert parsed.documents[1].data["kind"] == "W"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a: \x00\n", "f:1:4: the control character U+0000 is not accepted"),
        (b"a: 1\nb: \x1b[0m\n", "f:2:4: the control character U+001B is not accepted"),
        (b"a: \xc2\x85\n", "f:1:4: the control character U+0085 is not accepted"),
        (b"a: 1\n\xef\xbb\xbfb: 1\n", "f:2:1: the control character U+FEFF is not accepted"),
        (b"a: \xff\n", "f:1:4: the file is not UTF-8 text (byte 0xff)"),
        (b"\xff\xfea\x00", "f:1:1: the file is not UTF-8 text (byte 0xff) (it looks like UTF-16: save it as UTF-8)"),
        (b"a: \xed\xa0\x80\n", "f:1:4: the file is not UTF-8 text (byte 0xed)"),
        (b"x" * (FILE_BYTES_MAX + 1), "f:0:0: the file has 1,000,001 bytes; 1,000,000 is the most"),
    ],
    ids=["nul", "escape", "nel", "bom", "latin1", "utf16", "surrogate", "size"],
)
@pytest.mark.parametrize("read", [parse, parse_json])
def test_unreadable_bytes_are_one_problem(read: Callable[[bytes, str], Parsed], raw: bytes, expected: str) -> None:
    """Size, encoding and control characters are checked before any parser sees the text, alike for YAML and JSON."""
    parsed = read(raw, "f")
    assert [problem.startswith(expected) for problem in told(parsed)] == [True]
    assert parsed.broken


def test_limits_are_exact() -> None:
    """What is at a limit is accepted, what is one above it is refused."""
    assert parse(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX, "f").problems == ()
    assert "more than 50 deep" in told(parse(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "f"))[0]
    assert parse_json(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX, "f").problems == ()
    assert "more than 50 deep" in told(parse_json(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "f"))[0]
    assert len(parse(b"--- a\n" * DOCUMENTS_MAX, "f").documents) == DOCUMENTS_MAX
    too_many = parse(b"--- a\n" * (DOCUMENTS_MAX + 1), "f")
    assert (too_many.documents, "more than 10,000 documents" in told(too_many)[0]) == ((), True)
    assert parse(b"a: " + b"x" * (FILE_BYTES_MAX - 3), "f").problems == ()


def test_problems_of_one_file_are_bounded() -> None:
    """A file with thousands of mistakes does not make thousands of messages."""
    assert len(parse(b"a: 1\n" * 5000, "f").problems) == PROBLEMS_MAX


JSON = {
    b'{"a": 1, "a": 2}': ["f:1:10: the key a stands twice in one object, first on line 1"],
    b'{"a":\n {"b": 1, "\\u0062": 2}}': ["f:2:11: the key b stands twice"],
    b'{"a": NaN,\n "b": -Infinity, "c": 1e999}': ["f:1:7: NaN is not", "f:2:7: -Infinity is not", "f:2:23: the number is too large"],
    b"[" + b"9" * 5000 + b"]": ["f:1:2: a whole number of more than 64 bits"],
    b'["\\u0000", "\\ud800"]': [
        "f:1:2: the text holds the control character U+0000",
        "f:1:12: the text holds the control character U+D800",
    ],
    b"": ["f:1:1: this is not JSON: a value is missing here"],
    b"{'a': 1}": ["f:1:2: this is not JSON: a key in double quotes is missing here"],
    b'[{"a": 1,\n "b": 2,}]': ["f:2:9: this is not JSON: "],
    b'{"a": 1 // c\n}': ["f:1:9: this is not JSON: a ',' or a closing bracket is missing"],
    b'["a': ["f:1:2: this is not JSON: a quote is opened here and never closed"],
    b"[1] [2]": ["f:1:5: this is not JSON: something stands after the end of the data"],
    b'["a\tb"]': ["f:1:4: this is not JSON: a line break or tab inside a text"],
    b'["\\q"]': ["f:1:3: this is not JSON: a backslash that starts no escape"],
    b'{"a" 1}': ["f:1:6: this is not JSON: a ':' is missing after the key"],
}


@pytest.mark.parametrize("text", JSON)
def test_json_problems_have_their_place(text: bytes) -> None:
    """JSON files are as strict as YAML files, and say where."""
    parsed = parse_json(text, "f")
    assert len(parsed.problems) == len(JSON[text])
    for problem, expected in zip(parsed.problems, JSON[text], strict=True):
        assert str(problem).startswith(expected)


def test_json_without_a_final_line_break_has_positions() -> None:
    """Keys and values of a JSON file are found, with a byte order mark and without a final line break."""
    (document,) = parse_json(b'\xef\xbb\xbf{"tasks":\n [{"id": "a", "deps": ["b,c", {}]}], "x\\n": null}', "f").documents
    assert document.data == {"tasks": [{"id": "a", "deps": ["b,c", {}]}], "x\n": None}
    assert document.at(("tasks", 0, "deps", 1)) == (2, 31)
    assert document.key_at(("tasks", 0, "deps")) == (2, 15)
    assert document.key_at(("x\n",)) == (2, 38)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(PLAIN)
def test_json_is_read_as_the_standard_library_does(value: object) -> None:
    """For any data, the positions walk agrees with the data: every value is where `at` says."""
    text = json.dumps(value, indent=1)
    parsed = parse_json(text.encode(), "f")
    assert parsed.problems == ()
    assert [document.data for document in parsed.documents] == [value]
    starts = text.splitlines(keepends=True)

    def check(inner: object, path: tuple[str | int, ...]) -> None:
        line, column = parsed.documents[0].at(path)
        rest = "".join(starts[line - 1 :])[column - 1 :]
        assert json.JSONDecoder().raw_decode(rest)[0] == inner
        if isinstance(inner, dict):
            for key, below in inner.items():
                check(below, (*path, key))
        elif isinstance(inner, list):
            for index, below in enumerate(inner):
                check(below, (*path, index))

    check(value, ())


def by_ruamel(text: str) -> object:
    return YAML(typ="safe", pure=True).load(text)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=60))
def test_any_text_survives_being_written(text: str) -> None:
    """Any string is the same after it was written (as value, as key, in a row) and read by ruamel."""
    document = {"value": text, "rows": [{"t": text}], text + "k": [text]}
    assert by_ruamel(dump(document, rows=frozenset({"rows"}))) == document


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5), st.booleans())
def test_any_document_survives_being_written(document: dict[str, object], as_rows: bool) -> None:
    """Any document reads back the same by our own reader, whether its tables are rows or blocks."""
    text = dump(document, rows=frozenset(document) if as_rows else frozenset())
    parsed = parse(text.encode("utf-8", "surrogatepass"), "f")
    if parsed.problems:  # only for what we refuse to read at all
        assert any("control character" in str(problem) for problem in parsed.problems)
    else:
        assert parsed.documents[0].data == document


def test_written_text_is_readable() -> None:
    """Small structures are blocks, tables are one row an entry, and quotes are only where they are needed."""
    document = {
        "kind": "Run",
        "metadata": {"name": "5f0c21d9a7be"},
        "status": {
            "observed_revision": "main@sha1:1eabc9a4",
            "since": "2026-11-20T18:03:11Z",
            "on": "no",
            "tasks": {"build.x": {"state": "running", "exit_code": None}, "y": {"state": "waiting", "reason": "é: #x"}},
            "history": [{"run": "77ab02c4de10"}],
            "empty": {},
            "plain": ["a", 1, {"b": [True], "c": "x y"}],
        },
    }
    assert dump(document, rows=frozenset({"tasks", "history"})) == (
        "kind: Run\n"
        "metadata:\n"
        '  name: "5f0c21d9a7be"\n'
        "status:\n"
        "  observed_revision: main@sha1:1eabc9a4\n"
        '  since: "2026-11-20T18:03:11Z"\n'
        '  "on": "no"\n'
        "  tasks:\n"
        '    build.x: {"state": "running", "exit_code": null}\n'
        '    "y": {"state": "waiting", "reason": "é: #x"}\n'
        "  history:\n"
        '    - {"run": "77ab02c4de10"}\n'
        "  empty: {}\n"
        "  plain:\n"
        "    - a\n"
        "    - 1\n"
        "    - b:\n"
        "        - true\n"
        '      c: "x y"\n'
    )


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (float("inf"), ValueError), (b"x", TypeError), ({1}, TypeError)])
def test_what_has_no_yaml_form_is_not_written(value: object, error: type[Exception]) -> None:
    """Numbers that are none and values of other types raise; nothing is written in their place."""
    with pytest.raises(error):
        dump({"a": value})
    with pytest.raises(error):
        dump({"a": [value]}, rows=frozenset({"a"}))


def test_a_key_that_readers_refuse_is_not_written() -> None:
    """A key of more than 1,000 characters on one line is beyond what YAML readers must take."""
    with pytest.raises(ValueError, match="too long"):
        dump({"k" * 1001: 1})
