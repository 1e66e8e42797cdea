"""The programs of the far side, run by every shell that a login node may have as `sh`: what they leave in the spool and what they answer.

The submit command is a stand-in of three lines here: what Slurm itself does is tested on a real one (test_slurm.py).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends import far
from reconciler.backends.base import FENCED_EXIT, FileRequest, JobRequest
from reconciler.backends.far_marks import (
    FarExit,
    JobStart,
    Sending,
    claim_line,
    parse_far_exit,
    parse_far_start,
    parse_sending,
    revocation,
)
from reconciler.backends.marks import Garbled, Owner, Revoked
from reconciler.backends.packing import Namer, batches
from reconciler.backends.reply import Reply, mailed, members, trails
from reconciler.backends.slurm import Slurm
from reconciler.core.names import job_name
from tests.backends.conformance import RUN, name

OWNER = Owner("ledger-1", 1)
SHELLS = [shell for shell in ("/bin/dash", "/bin/bash", "/bin/busybox") if Path(shell).exists()]
MARK = "m0123456789abcdef"
_FAILED = "sbatch: error: Batch job submission failed:"
_POLICY = "Job violates accounting/QOS policy (job submit limit, size and/or time limits)"


class Node:
    """A login node: a spool, and a stand-in for sbatch that answers what `answer` says and counts its calls."""

    def __init__(self, root: Path, shell: str) -> None:
        self.root = root / "a spool"
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.root / "runs").mkdir(parents=True)
        (self.root / "exits").mkdir()
        (self.root / "owner").write_text(OWNER.text())
        self.shell = shell
        self.desk = far.Desk(str(self.root), OWNER, Slurm())
        self.answers("echo 77")

    def answers(self, text: str) -> None:
        """From now on the submit command is this."""
        program = self.bin / "sbatch"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{self.bin}/calls\n{text}\n')
        program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        path = self.bin / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, program: str) -> Reply:
        argv = [self.shell, "sh"] if self.shell.endswith("busybox") else [self.shell]
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.root.parent)}
        done = subprocess.run([*argv, "-c", program], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
        self.noise = done.stderr.decode()
        return Reply(MARK, done.stdout)

    def send(self, *tasks: str, most: int = 1, step: str = "step1", **fields: str) -> Reply:
        jobs = [JobRequest(job=name(task), run=RUN, task=task, command="true", **fields) for task in tasks]  # type: ignore[arg-type]
        asked = {job.job: self.desk.dialect.asked(job) for job in jobs}
        parcels = [
            far.Parcel(batch, tuple(f"script of {job.task}" for job in batch.jobs), "reconciler test")
            for batch in batches(jobs, asked, Namer("test"), step, lambda _: most)
        ]
        return self.run(far.submitted(self.desk, MARK, parcels, step))

    def folder(self, task: str) -> Path:
        return self.root / "runs" / RUN / name(task)

    def sending(self, task: str) -> Sending | None:
        return trails(self.run(far.records(self.desk, MARK, [name(task)], ())))[name(task)].sending


@pytest.fixture(params=SHELLS)
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Node:
    return Node(tmp_path, request.param)


def told(reply: Reply) -> list[tuple[str, str]]:
    return [line for line in reply.lines if line[0] not in ("begin", "end")]


def test_a_single_job(node: Node) -> None:
    """A job is claimed, its script written, handed to the scheduler once, and its id recorded; sent again, its id is told."""
    assert told(node.send("a")) == [("ok", f"{name('a')} 77")]
    assert (node.folder("a") / "script").read_text() == "script of a"
    assert node.sending("a") == Sending("accepted", job_id="77")
    assert told(node.send("a", step="step2")) == [("was", f"{name('a')} 77")]
    assert len(node.calls) == 1
    assert node.noise == ""


def test_an_array(node: Node) -> None:
    """Jobs of an array are claimed one by one and handed over by one call, each with its index; sent again, their ids are told."""
    reply = node.send("a", "b", "c", most=10)
    folder = next(each for each in (node.root / "runs" / RUN).iterdir() if each.name.startswith("+"))
    assert told(reply) == [("in", f"{folder.name} {index}") for index in range(3)] + [("ok", f"{folder.name} 77")]
    assert "--array=0-2" in node.calls[0] and len(node.calls) == 1
    assert [(folder / str(index)).read_text() for index in range(3)] == [f"{name(task)}\n" for task in "abc"]
    assert node.sending("b") == Sending("accepted", folder.name, 1, "77")
    found = members(node.run(far.records(node.desk, MARK, (), [(RUN, folder.name)])))
    assert found == {folder.name: {index: name(task) for index, task in enumerate("abc")}}
    again = node.send("c", "d", most=10, step="step2")
    assert ("was", f"{name('c')} 77_2") in told(again)
    assert "--array=1" in node.calls[1].split()


def test_only_claims_that_were_won_are_in_an_array(node: Node) -> None:
    """A name that was claimed before is left out of the array, and is in doubt when nobody knows what became of it."""
    node.folder("b").mkdir(parents=True)
    (node.folder("b") / "claim.1").write_text(claim_line(OWNER, "step0", "", 0) + "\n")
    reply = node.send("a", "b", "c", most=10)
    assert ("doubt", name("b")) in told(reply)
    assert "--array=0,2" in node.calls[0].split()
    assert not (node.folder("b") / "script").exists()


@pytest.mark.parametrize(
    ("answer", "class_"),
    [
        (f"echo '{_FAILED} Invalid partition name specified' >&2; exit 1", "refused"),
        (f"echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; echo '{_FAILED} {_POLICY}' >&2; exit 1", "limit"),
        (f"echo '{_FAILED} Unable to contact slurm controller (connect failure)' >&2; exit 1", "transient"),
    ],
)
@pytest.mark.parametrize("most", [1, 10])
def test_a_proven_refusal_is_used_up_by_the_next(node: Node, answer: str, class_: str, most: int) -> None:
    """What was proven not to be sent is sent by the next submission of the name, under a claim of its own; once."""
    node.answers(answer)
    reply = node.send("a", "b", most=most)
    refused = [rest.split(" ")[1] for word, rest in told(reply) if word == "no"]
    assert refused == [class_] * (2 if most == 1 and class_ != "transient" else 1)
    assert reply.first("stop") == (class_ if class_ == "transient" else None)
    node.answers("echo 78")
    sent = node.send("a", step="step2")
    assert told(sent) == [("ok", f"{name('a')} 78")]
    assert node.sending("a") == Sending("accepted", job_id="78")
    assert told(node.send("a", step="step3")) == [("was", f"{name('a')} 78")]


def test_what_is_full_is_not_asked_for_ever(node: Node) -> None:
    """A limit of one account or partition does not hold up the next, but the third limit ends the step."""
    node.answers(f"echo '{_FAILED} {_POLICY}' >&2; exit 1")
    reply = node.send("a", "b", "c", "d", "e")
    assert (len(node.calls), reply.first("stop")) == (far.LIMITS_MAX, "limit")
    assert not (node.folder("d") / "claim.1").exists()


@pytest.mark.parametrize(
    "answer",
    [
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1",
        "exit 0",
        "kill -9 $$",
        "echo 'something new' >&2; exit 1",
    ],
)
def test_a_doubt_is_never_sent_again(node: Node, answer: str) -> None:
    """An answer that proves nothing leaves the name in doubt: no further submission sends it, and nothing after it is claimed."""
    node.answers(answer)
    reply = node.send("a", "b")
    assert [(word, rest.split(" ")[:2]) for word, rest in told(reply)] == [("no", [name("a"), "unknown"]), ("stop", ["unknown"])]
    assert node.sending("a") == Sending("sent")
    node.answers("echo 78")
    assert told(node.send("a", step="step2")) == [("doubt", name("a"))]
    assert len(node.calls) == 1
    assert told(node.send("b", step="step3")) == [("ok", f"{name('b')} 78")]


def test_noise_beside_an_id_is_accepted(node: Node) -> None:
    """An id is an id, whatever else is printed, also with a cluster's name behind it."""
    node.answers("echo 'sbatch: Slurm temporarily unable to accept job, sleeping and retrying' >&2; echo; echo '91;hpc'; echo 12 jobs")
    assert told(node.send("a")) == [("ok", f"{name('a')} 91")]


def test_folders_are_looked_at_first(node: Node, tmp_path: Path) -> None:
    """A working directory that is not there refuses the job in words before it is claimed; one that is there does not."""
    gone = str(tmp_path / "it's gone")
    reply = node.send("a", working_dir=gone)
    [(word, rest)] = told(reply)
    assert (word, rest.split(" ", 1)[0]) == ("bad", name("a")) and gone in rest
    assert not (node.folder("a") / "claim.1").exists()
    Path(gone).mkdir()
    assert told(node.send("a", working_dir=gone, output_file="out.txt", step="step2")) == [("ok", f"{name('a')} 77")]
    [(word, rest)] = told(node.send("b", working_dir=gone, output_file="no/out.txt", step="step3"))
    assert (word, "no/out.txt" in rest) == ("bad", True)


def test_a_revoked_name_is_not_sent(node: Node) -> None:
    """A name whose start was revoked before is claimed by nobody's submission that then sends it."""
    assert told(node.run(far.revoked(node.desk, MARK, [(name("a"), False)]))) == [("fenced", name("a"))]
    assert told(node.send("a", "b", most=10)) [0] == ("doubt", name("a"))
    assert "--array=1" in node.calls[0].split()


def test_revoking(node: Node) -> None:
    """A start that is free is taken; one that was taken by a job is told with its id, and marked only if it is to be ended."""
    node.folder("a").mkdir(parents=True)
    (node.folder("a") / "start.0").write_text("start 1 job 12_3 0 5.5 end\n")
    assert told(node.run(far.revoked(node.desk, MARK, [(name("a"), False), (name("b"), True)]))) == [
        ("started", f"{name('a')} 12_3"), ("fenced", name("b")),
    ]  # fmt: skip
    assert not (node.folder("a") / "cancel").exists()
    assert told(node.run(far.revoked(node.desk, MARK, [(name("a"), True)]))) == [("ending", f"{name('a')} 12_3")]
    trail = trails(node.run(far.records(node.desk, MARK, [name("a"), name("b")], ())))
    assert trail[name("a")].cancel and trail[name("a")].started and trail[name("b")].revoked
    (node.folder("a") / "exit").write_text("exit 1 0 command job 12_3 0 5.5 8.0 end\n")
    assert told(node.run(far.revoked(node.desk, MARK, [(name("a"), True)]))) == [("ended", f"{name('a')} 12_3")]


@pytest.mark.parametrize("record", ["", "start 1 job 12_3 0", "hello\n"])
def test_half_a_start_record_is_a_start(node: Node, record: str) -> None:
    """What a full disk left of a start record was taken by somebody, and by nobody else any more: it is told as started, not as a doubt
    that nothing could ever settle."""
    node.folder("a").mkdir(parents=True)
    (node.folder("a") / "start.0").write_text(record)
    trail = trails(node.run(far.records(node.desk, MARK, [name("a")], ())))[name("a")]
    assert (trail.started, trail.revoked, len(trail.starts)) == (True, False, 1)
    assert told(node.run(far.revoked(node.desk, MARK, [(name("a"), False)]))) == [("started", f"{name('a')} ")]
    assert told(node.run(far.revoked(node.desk, MARK, [(name("a"), True)]))) == [("ending", f"{name('a')} ")]
    assert (node.folder("a") / "start.0").read_text() == record


def test_a_full_disk_leaves_no_half_revocation(node: Node) -> None:
    """While nothing can be written no start is taken, and that is said; later it can be."""
    (node.root / "revoking").symlink_to("/dev/full")
    [(word, rest)] = told(node.run(far.revoked(node.desk, MARK, [(name("a"), False)])))
    assert (word, rest.split(" ")[0]) == ("unknown", name("a")) and not (node.folder("a") / "start.0").exists()
    (node.root / "revoking").unlink()
    assert told(node.run(far.revoked(node.desk, MARK, [(name("a"), False)]))) == [("fenced", name("a"))]


def test_a_member_whose_script_cannot_be_written_is_no_element(node: Node) -> None:
    """One that was left out of its array for want of room is sent by the next submission, whatever became of the array."""
    (node.folder("a")).mkdir(parents=True)
    (node.folder("a") / "script").symlink_to("/dev/full")
    reply = node.send("a", "b", "c", most=10)
    assert [word for word, _ in told(reply)] == ["unsent", "in", "in", "ok"]
    assert node.sending("a") is not None and node.sending("a").state == "refused"  # type: ignore[union-attr]  # the line says so
    (node.folder("a") / "script").unlink()
    node.answers("echo 78")
    assert told(node.send("a", step="step2")) == [("ok", f"{name('a')} 78")]


def test_another_owner_is_told_and_nothing_done(node: Node) -> None:
    """A spool that is somebody else's is left alone by every program; one that is gone is told."""
    (node.root / "owner").write_text("owner 1 ledger-2 1 end\n")
    programs = [
        far.looked(node.desk, MARK, True),
        far.revoked(node.desk, MARK, [(name("a"), True)]),
        far.records(node.desk, MARK, [name("a")], ()),
        far.looked_away(node.desk, MARK, [name("a")]),
        far.cleaned(node.desk, MARK, [RUN]),
    ]
    for program in programs:
        assert node.run(program).lines == [("owner", "owner 1 ledger-2 1 end")]
    assert node.send("a").lines == [("owner", "owner 1 ledger-2 1 end")]
    assert list((node.root / "runs").iterdir()) == [] and node.calls == []
    (node.root / "owner").unlink()
    (node.root / "exits").rmdir()
    (node.root / "runs").rmdir()
    node.root.rmdir()
    assert node.run(programs[0]).lines == [("gone", "")]


def test_the_mailbox(node: Node) -> None:
    """Every whole record of the mailbox is told with its time; strangers in it, and halves, are not believed."""
    for job, text in {name("a"): "exit 1 3 command job 12 0 5.0 7.5 end\n", name("b"): "exit 1 3 comm", "x y": "exit 1 0 command"}.items():
        (node.root / "exits" / job).write_text(text)
    found = mailed(node.run(far.looked(node.desk, MARK, False)))
    [(record, at)] = found.values()
    assert list(found) == [name("a")] and record == FarExit(3, "command", "12", 0, 2.5)
    assert at is not None and abs(at - (node.root / "exits" / name("a")).stat().st_mtime) < 0.01
    node.run(far.looked_away(node.desk, MARK, [name("a")]))
    assert not (node.root / "exits" / name("a")).exists()


def test_a_run_is_cleaned_away(node: Node) -> None:
    """Of a run that is over nothing is left but the word that it is closed, and none of its jobs is sent again."""
    node.send("a", "b", most=10)
    (node.root / "exits" / name("a")).write_text("exit 1 0 command job 12 0 5.0 7.5 end\n")
    (node.root / "exits" / f"{'f' * 12}.a.1").write_text("exit 1 0 command job 12 0 5.0 7.5 end\n")
    assert list(node.run(far.cleaned(node.desk, MARK, [RUN, "0" * 12])).all("clean")) == [RUN, "0" * 12]
    assert [path.name for path in (node.root / "runs" / RUN).iterdir()] == ["closed"]
    assert [path.name for path in (node.root / "exits").iterdir()] == [f"{'f' * 12}.a.1"]
    [(word, rest)] = told(node.send("c", step="step2"))
    assert (word, "cleaned away" in rest) == ("bad", True)


def test_taking_a_spool(node: Node, tmp_path: Path) -> None:
    """A spool is made and taken; if somebody else was quicker, that is told and nothing changed."""
    root = tmp_path / "new spool"
    assert node.run(far.own(MARK, str(root), "", OWNER)).first("root") == str(root)
    assert (root / "owner").read_text() == OWNER.text()
    newer = Owner("ledger-1", 2)
    assert node.run(far.own(MARK, str(root), "", newer)).first("owner") == OWNER.text().strip()
    assert (root / "owner").read_text() == OWNER.text()
    node.run(far.own(MARK, str(root), OWNER.text().strip(), newer))
    assert (root / "owner").read_text() == newer.text()
    seen = node.run(far.survey(MARK, str(tmp_path), "new spool"))
    assert (seen.first("held"), list(seen.all("root"))[-1]) == (newer.text().strip(), str(root))


def test_a_part_of_a_file(node: Node) -> None:
    """A file is told from any offset, also from its end; what is no plain file is a problem."""
    folder = node.folder("a")
    (folder / "work").mkdir(parents=True)
    (folder / "out").write_bytes(bytes(range(256)))

    def read(path: str, offset: int = 0, bytes_max: int = 1000) -> tuple[bytes, str]:
        request = FileRequest(name("a"), path, offset=offset, bytes_max=bytes_max)
        argv = [node.shell, "sh"] if node.shell.endswith("busybox") else [node.shell]
        done = subprocess.run([*argv, "-c", far.part_of_file(MARK, node.desk, request)], capture_output=True, timeout=20)
        line, _, data = done.stdout.removeprefix(b"\n").partition(b"\n")
        return data, line.decode().removeprefix(f"{MARK}:")

    assert read("out") == (bytes(range(256)), "file 256")
    assert read("out", 10, 5) == (bytes(range(10, 15)), "file 256")
    assert read("out", -3) == (bytes(range(253, 256)), "file 256")
    assert read("out", 999) == (b"", "file 256")
    assert read("none") == (b"", "no-file")
    assert read(str(folder)) == (b"", "problem it is no plain file")


def test_the_script_of_an_array(node: Node) -> None:
    """An element runs the script of its own job, and one that nobody is in leaves with the reserved code."""
    node.send("a", "b", most=10)
    folder = next(each for each in (node.root / "runs" / RUN).iterdir() if each.name.startswith("+"))
    (node.folder("b") / "script").write_text(f"echo ran >'{node.root}/ran'; exit 5\n")
    for index, code in (("1", 5), ("7", FENCED_EXIT)):
        done = subprocess.run(["/bin/sh", str(folder / "script")], env={"SLURM_ARRAY_TASK_ID": index, "PATH": os.environ["PATH"]})
        assert done.returncode == code
    assert (node.root / "ran").exists()


def test_records_are_read_back() -> None:
    """Each record says what it said; anything else is none of ours, and half of one is known as half."""
    assert parse_far_start("start 1 job 12_3 1 55.5 end") == JobStart("12_3", 1, 55.5)
    assert parse_far_start(revocation(OWNER)) == Revoked(OWNER)
    assert parse_far_start("start 1 job 1") == Garbled("start 1 job 1", True)
    assert parse_far_start("hello end") == Garbled("hello end", False)
    assert parse_far_exit("exit 1 256 command job 12 0 1 2 end") == Garbled("exit 1 256 command job 12 0 1 2 end", False)
    assert parse_sending([]) == Sending("claimed")
    claim = claim_line(OWNER, "step", "+tag", 4)
    assert parse_sending([claim, "sent 1 end", "id 1 9 end"]) == Sending("accepted", "+tag", 4, "9")
    assert parse_sending([claim, "refused 1 transient end", "sent 1 end", "id 1 9 end"]) == Sending("refused", "+tag", 4)
    assert parse_sending([claim, "sent 1 end", "refused 1 limit end"]) == Sending("refused", "+tag", 4)


@given(st.text(max_size=200))
def test_garbage_is_no_record(text: str) -> None:
    """Whatever is in a file, reading it raises nothing and proves nothing."""
    assert isinstance(parse_far_start(text), Garbled)
    assert isinstance(parse_far_exit(text), Garbled)
    assert parse_sending([text]).state == "claimed"
    Reply(MARK, text.encode(errors="replace"))


@given(st.binary(max_size=300))
def test_noise_is_no_answer(noise: bytes) -> None:
    """What does not begin with the mark is not an answer of ours, whatever a profile prints."""
    assert Reply(MARK, noise + b"\n").lines == []
    assert Reply(MARK, noise + f"\n{MARK}:end\n".encode()).lines == [("end", "")]


def test_no_path_is_made_of_anything_but_a_job_name() -> None:
    """A name that is no job name raises before any text is made of it."""
    with pytest.raises(ValueError, match="not a job name"):
        far.said(far.Desk("/x", OWNER, Slurm()), MARK, [("../../x", "", 0)])
    assert job_name(RUN, "t", 1) == name()
