"""What is logged, in which form, and what never is."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from reconciler import log
from reconciler.log import EventName, configure, get_logger
from reconciler.printable import REDACTED, escape, redact_text


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is state of the process: put it back."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = kept
    root.setLevel(level)


def logged(**fields: object) -> dict[str, object]:
    """One JSON line with `fields`, parsed."""
    out = io.StringIO()
    configure("json", "debug", out)
    get_logger().info(EventName.RUN_CREATED, **fields)
    return json.loads(out.getvalue())


def test_json_has_the_promised_name_a_level_and_a_utc_time() -> None:
    """One line is one JSON object with event, level and a UTC timestamp."""
    line = logged(run="0123456789ab")
    assert (line["event"], line["level"], line["run"]) == ("RunCreated", "info", "0123456789ab")
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://ada:hunter2@example.org/x.git", "https://[redacted]@example.org/x.git"),
        ("https://ghp_abcdef@example.org/x.git", "https://[redacted]@example.org/x.git"),
        ("cannot fetch 'https://ada:hunter2@example.org/x': no", "cannot fetch 'https://[redacted]@example.org/x': no"),
        ("https://ada:p@ss@example.org/x.git", "https://[redacted]@example.org/x.git"),
        ("ssh://git@example.org/x.git", "ssh://git@example.org/x.git"),
        ("ssh://git:hunter2@example.org/x.git", "ssh://git:[redacted]@example.org/x.git"),
        ("git@example.org:x.git", "git@example.org:x.git"),
        ("https://example.org/a?access_token=hunter2&x=1", "https://example.org/a?access_token=[redacted]&x=1"),
        ("https://b.s3.example.org/k?X-Amz-Signature=hunter2", "https://b.s3.example.org/k?X-Amz-Signature=[redacted]"),
        ("Authorization: Bearer hunter2", "Authorization: [redacted]"),
        ("https://example.org/@scope/pkg", "https://example.org/@scope/pkg"),
        ("ada@example.org wrote", "ada@example.org wrote"),
    ],
)
def test_credentials_in_text_are_cut_out(text: str, expected: str) -> None:
    """What is a credential in a URL or a header goes, and nothing else does."""
    assert redact_text(text) == expected


@pytest.mark.parametrize("key", ["token", "deploy_token", "client_secret", "password", "Authorization", "api_key", "private_key", "cookie"])
def test_a_key_that_names_a_secret_hides_its_value(key: str) -> None:
    """The value of a key named like a secret is never printed, at any depth."""
    assert logged(**{key: "hunter2"})[key] == REDACTED
    assert "hunter2" not in json.dumps(logged(spec={"auth": [{key: "hunter2"}]}))


@pytest.mark.parametrize("env", [{"DB": "hunter2"}, (("DB", "hunter2"),), [["DB", "hunter2"]]])
def test_an_environment_shows_its_names_only(env: object) -> None:
    """The values of an environment are never printed; its names are."""
    assert logged(env=env)["env"] == {"DB": REDACTED}


def test_an_exception_is_redacted_too() -> None:
    """The text of a traceback takes the same way as everything else."""
    out = io.StringIO()
    configure("json", "info", out)
    try:
        raise RuntimeError("no route to https://ada:hunter2@example.org/")
    except RuntimeError:
        get_logger().exception(EventName.OBJECT_FAILED)
    assert "hunter2" not in out.getvalue()
    assert "RuntimeError" in json.loads(out.getvalue())["exception"]


def test_lines_of_other_packages_take_the_same_way() -> None:
    """What is logged through the standard library has the same form and the same redaction."""
    out = io.StringIO()
    configure("json", "info", out)
    logging.getLogger("asyncio").error("lost %s", "https://ada:hunter2@example.org/")
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"]) == ("lost https://[redacted]@example.org/", "error")


def test_text_of_others_cannot_steer_the_terminal() -> None:
    """Control characters, ANSI sequences and direction marks are shown escaped, on one line."""
    out = io.StringIO()
    configure("console", "info", out)
    get_logger().info(EventName.TASK_FAILED, reason="\x1b[2Jgone\r\nDaemonStopped \u202e\udc80", message={"k\x1b": ["\x07"]})
    assert len(out.getvalue().splitlines()) == 1
    assert not set(out.getvalue()) & set("\x1b\x07\r\u202e\udc80")
    assert "gone" in out.getvalue()


def test_a_traceback_on_the_console_keeps_its_lines() -> None:
    """A person can read a traceback, and its text is escaped nevertheless."""
    out = io.StringIO()
    configure("console", "info", out)
    try:
        raise RuntimeError("\x1b[2J")
    except RuntimeError:
        get_logger().exception(EventName.OBJECT_FAILED)
    assert len(out.getvalue().splitlines()) > 3
    assert "\x1b" not in out.getvalue()


def test_plain_text_is_not_changed() -> None:
    """Ordinary letters of any language are printed as they are."""
    assert escape("naïve 日本 → ok") == "naïve 日本 → ok"
    assert escape("a\tb\n", keep="\n") == "a\\tb\n"


def test_the_level_filters() -> None:
    """A line below the level is not written."""
    out = io.StringIO()
    configure("json", "warning", out)
    get_logger().info(EventName.RUN_CREATED)
    assert out.getvalue() == ""


def test_a_stream_that_cannot_be_written_stops_nothing() -> None:
    """A full disk under the log, or a closed pipe, loses lines and raises nothing."""
    with io.FileIO("/dev/full", "w") as full:
        configure("json", "info", io.TextIOWrapper(full, write_through=True))
        get_logger().info(EventName.RUN_CREATED)
    closed = io.StringIO()
    closed.close()
    configure("json", "info", closed)
    get_logger().info(EventName.RUN_CREATED)


def test_every_promised_name_is_in_the_docstring() -> None:
    """The table in the docstring and the names are the same."""
    words = set((log.__doc__ or "").replace(":", " ").replace(";", " ").split())
    assert {str(name) for name in EventName} - words == set()


def event_names(source: str) -> set[str]:
    """Every literal name of an event in `source`: given to `Event(at, name, …)` or `….note(name, …)`, or in the table EVENT_OF."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in {"Event", "note"}:
            found += [*node.args[:2], *(keyword.value for keyword in node.keywords if keyword.arg == "name")]
        elif isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "EVENT_OF" and isinstance(node.value, ast.Dict):
            found += node.value.values
    texts = {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", text)}


def test_every_event_that_is_recorded_is_promised() -> None:
    """No module records an event under a name that log.py does not promise."""
    root = Path(log.__file__).parent
    used = {name for path in root.rglob("*.py") for name in event_names(path.read_text(encoding="utf-8"))}
    assert used - {str(name) for name in EventName} == set()
    source = 'Event(now, "TaskTypo", run)\ndraft.note("RunTypo", "", x)\nEVENT_OF: T = {1: "MoveTypo"}'
    assert event_names(source) == {"TaskTypo", "RunTypo", "MoveTypo"}
