"""The records of the spool: what is written is read back, and whatever else is read is garbage, never a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.marks import (
    Claim,
    Exit,
    Garbled,
    Mark,
    Owner,
    Process,
    Revoked,
    parse_claim,
    parse_exit,
    parse_mark,
    parse_owner,
    parse_start,
)
from reconciler.backends.script import claimed_script

OWNER = Owner("6f1d-22", 7)


def test_records_are_read_back() -> None:
    """Each record that a daemon writes is read back as it was."""
    claim, mark = Claim(OWNER, "boot-1", 3600), Mark("boot-1", 12.34)
    assert parse_owner(OWNER.text()) == OWNER
    assert parse_claim(claimed_script(claim, "the script")) == claim
    assert parse_claim(claim.text()) is None
    assert parse_mark(mark.text()) == mark
    assert parse_start(OWNER.revocation()) == Revoked(OWNER)


def test_records_of_the_wrapper_are_read() -> None:
    """What the wrapper writes is read."""
    assert parse_start("start 1 process 3dcf6c4d-84e9 4026531836 123 456 end\n") == Process("3dcf6c4d-84e9", 4026531836, 123, 456)
    assert parse_exit("exit 1 0 command end\n") == Exit(0, "command")


@pytest.mark.parametrize("pid", ["0", "1", "-1", "00", "012", "99999999999"])
def test_a_pid_that_must_never_be_signalled(pid: str) -> None:
    """A start record cannot make us signal ourselves, everybody, or init."""
    assert isinstance(parse_start(f"start 1 process b 1 {pid} 1 end"), Garbled)


@pytest.mark.parametrize("record", ["start 1 process b-1 2 33 44 end", "exit 1 0 command end"])
def test_a_record_that_was_cut_short(record: str) -> None:
    """Every beginning of a record is told from something foreign: somebody began to write."""
    parse = parse_start if record.startswith("start") else parse_exit
    for length in range(len(record)):
        found = parse(record[:length])
        assert isinstance(found, Garbled) and found.unfinished, record[:length]


@given(st.text(max_size=200))
def test_garbage_is_garbage(text: str) -> None:
    """Whatever a record holds, reading it never raises."""
    for parse in (parse_owner, parse_claim, parse_start, parse_mark, parse_exit):
        parse(text)


@pytest.mark.parametrize(
    "text", ["exit 1 256 command end", "exit 1 0 success end", "exit 2 0 command end", "hello end", "exit 1 0 command end x"]
)
def test_a_foreign_exit_record(text: str) -> None:
    """An exit record in other words is no exit record, and was not merely cut short."""
    assert parse_exit(text) == Garbled(text, unfinished=text.endswith("x"))
