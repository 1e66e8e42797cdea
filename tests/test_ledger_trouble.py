"""Full disks, read-only folders, damaged files, second daemons, kill -9: nothing is lost, nothing is guessed, and the message helps."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.record import TaskRecord, TaskState
from reconciler.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerUnwritable
from reconciler.ledger import Batch, Ledger, LedgerReader
from reconciler.ledger.folder import holder
from reconciler.ledger.schema import FILE_NAME
from reconciler.mounts import file_system, mounted_type
from tests.ledger_samples import changed, ended, new, sample_run

ROOT = Path(__file__).parents[1]
RUN = sample_run()
RUNNING = TaskRecord(TaskState.RUNNING, claimed_at=5.0)


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own that runs `script`."""
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


HOLD = """
import sys
from pathlib import Path
from reconciler.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]), "lab")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """The second daemon on a folder learns pid and host of the first; after a kill -9 the folder is free."""
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(LedgerBusy, match=f"pid {first.pid} on {socket.gethostname()}, since 20"):
            Ledger.open(tmp_path, "lab")
        held = holder(tmp_path)
        assert held is not None
        assert (held.pid, held.host) == (first.pid, socket.gethostname())
        first.kill()
    assert holder(tmp_path) is None
    ledger = Ledger.open(tmp_path, "lab")
    assert ledger.epoch == 2
    ledger.close()


def test_a_daemon_is_refused_in_its_own_process_too(tmp_path: Path) -> None:
    """The lock holds between two ledgers of one process, and is free after close."""
    ledger = Ledger.open(tmp_path, "lab")
    with pytest.raises(LedgerBusy, match=f"pid {os.getpid()}"):
        Ledger.open(tmp_path, "lab")
    ledger.close()
    ledger.close()
    Ledger.open(tmp_path, "lab").close()


def test_a_jumbled_lock_file_stops_nobody(tmp_path: Path) -> None:
    """What the lock file says decides nothing: an old one that nobody holds is taken, and one that says nothing still holds."""
    (tmp_path / "lock").write_text("not json")
    ledger = Ledger.open(tmp_path, "lab")
    (tmp_path / "lock").write_text("")
    with pytest.raises(LedgerBusy, match="held by another daemon"):
        Ledger.open(tmp_path, "lab")
    ledger.close()


def test_files_are_ours_alone(tmp_path: Path) -> None:
    """The folder is made with mode 0700 and every file in it with 0600, whatever the umask."""
    before = os.umask(0o002)
    try:
        ledger = Ledger.open(tmp_path / "a" / "state", "lab")
        ledger.save(new(RUN))
    finally:
        os.umask(before)
    folder = tmp_path / "a" / "state"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(("lock", FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"), 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    ledger.close()


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """A state folder open to others is refused with the command that cures it, and nothing is made in it."""
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(LedgerError, match=f"chmod go-w {folder}"):
        Ledger.open(folder, "lab")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A state folder of another user is refused."""
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(LedgerError, match="belongs to user id 12345"):
        Ledger.open(tmp_path, "lab")
    os.chown(tmp_path, 0, -1)


def test_a_planted_symlink_is_not_followed(tmp_path: Path) -> None:
    """A ledger or lock that is a symlink is refused; what it points to is not touched."""
    (tmp_path / "state").mkdir(mode=0o700)
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "state" / FILE_NAME).symlink_to(target)
    with pytest.raises(LedgerUnwritable, match="cannot be opened"):
        Ledger.open(tmp_path / "state", "lab")
    assert target.read_text() == ""


MOUNTS = """\
21 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 21 0:40 / /home rw shared:20 master:3 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/ada/local\\040disk rw - xfs /dev/sdb rw
32 21 0:42 / /scratch rw - lustre mgs@tcp:/scratch rw
33 21 0:43 / /mnt/s rw - ext4 /dev/sdc rw
34 21 0:44 / /mnt/s rw - fuse.sshfs host: rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/x", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada/.state", "nfs4"),
        ("/homely", "ext4"),
        ("/home/ada/local disk/state", "xfs"),
        ("/scratch/ada", "lustre"),
        ("/mnt/s/a", "fuse.sshfs"),
    ],
)
def test_the_file_system_is_the_innermost_mount(path: str, expected: str) -> None:
    """Of nested mounts the innermost counts, of two on one point the later; names with blanks are understood."""
    assert mounted_type(MOUNTS, path) == expected


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux")
def test_the_file_system_is_known_here(tmp_path: Path) -> None:
    """The type found for a real folder is the one that df(1) names."""
    said = subprocess.run(["df", "--output=fstype", str(tmp_path)], capture_output=True, text=True, check=True)
    assert file_system(tmp_path) == said.stdout.split()[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, of its own."""
    point = tmp_path / "disk"
    point.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(point)], capture_output=True, text=True)
    if done.returncode != 0:
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(f"cannot mount: {done.stderr}")
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free on `disk`."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def save_until_refused(ledger: Ledger) -> int:
    """Save until there is no room; the number of the last save that was told to be saved."""
    for number in range(1, 1000):
        try:
            ledger.save(changed(RUN.id, "t0", TaskRecord(attempt=number, reason="x" * 5000)))
        except LedgerUnwritable as error:
            assert "full" in str(error) or "I/O" in str(error)
            return number - 1
    raise AssertionError("the disk never became full")


def test_a_full_disk_is_said_and_passes(small_disk: Path) -> None:
    """On a full disk a save fails whole and says so; the same ledger saves again when there is room, and has lost nothing."""
    ledger = Ledger.open(small_disk / "state", "lab")
    ledger.save(new(RUN))
    ballast = fill(small_disk)
    last = save_until_refused(ledger)
    with pytest.raises(LedgerUnwritable):
        ledger.save(changed(RUN.id, "t1", RUNNING._replace(reason="x" * 50_000)))  # the log may have room for a small one
    assert ledger.live_runs()[0].records["t0"].attempt == max(last, 1)
    assert ledger.live_runs()[0].records["t1"] == TaskRecord()
    ballast.unlink()
    ledger.save(Batch())  # asks whether it has passed
    ledger.save(changed(RUN.id, "t1", RUNNING))
    ledger.close()
    ledger = Ledger.open(small_disk / "state", "lab")
    assert ledger.live_runs()[0].records["t1"] == RUNNING
    ledger.close()


def test_a_start_on_a_full_disk_is_said_and_passes(small_disk: Path) -> None:
    """A daemon that starts on a full disk says so; with room it starts, and the ledger is the same."""
    first = Ledger.open(small_disk / "state", "lab")
    first.save(new(RUN))
    first.close()
    ballast = fill(small_disk)
    with pytest.raises(LedgerUnwritable):
        Ledger.open(small_disk / "state", "lab")
    ballast.unlink()
    ledger = Ledger.open(small_disk / "state", "lab")
    assert ledger.id == first.id
    assert [stored.run for stored in ledger.live_runs()] == [RUN]
    ledger.close()


def test_a_read_only_disk_is_said_and_passes(small_disk: Path) -> None:
    """A disk that became read-only is named when the daemon starts; readers still work; remounted, the daemon starts."""
    ledger = Ledger.open(small_disk / "state", "lab")
    ledger.save(new(RUN))
    ledger.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(LedgerUnwritable):
        Ledger.open(small_disk / "state", "lab")
    with LedgerReader(small_disk / "state") as reader:
        assert [row.id for row in reader.runs()] == [RUN.id]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    Ledger.open(small_disk / "state", "lab").close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_said(tmp_path: Path) -> None:
    """A state folder that cannot be made is LedgerUnwritable."""
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerUnwritable, match="cannot be made"):
        Ledger.open(tmp_path / "state", "lab")
    tmp_path.chmod(0o700)


LIMITED = """
import json, resource, sys
from pathlib import Path
from reconciler.core.record import TaskRecord
from reconciler.errors import LedgerUnwritable
from reconciler.ledger import Ledger
from tests.ledger_samples import changed, new, sample_run
run = sample_run()
ledger = Ledger.open(Path(sys.argv[1]), "lab")
ledger.save(new(run))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
saved, refused = 0, ""
for number in range(1, 200):
    try:
        ledger.save(changed(run.id, "t0", TaskRecord(attempt=number, reason="x" * 5000)))
        saved = number
    except LedgerUnwritable as error:
        refused = str(error)
        break
during = ledger.live_runs()[0].records["t0"].attempt
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
ledger.save(changed(run.id, "t1", TaskRecord(attempt=7)))
ledger.close()
print(json.dumps([saved, during, refused]))
"""


def test_a_file_that_may_not_grow_is_said_and_passes(tmp_path: Path) -> None:
    """When the log cannot grow (a quota), the save that fails leaves no trace, and saving works again afterwards."""
    with start(LIMITED, str(tmp_path)) as process:
        output = process.communicate(timeout=30)[0]
    saved, during, refused = json.loads(output)
    assert refused
    assert 0 < saved == during
    ledger = Ledger.open(tmp_path, "lab")
    records = ledger.live_runs()[0].records
    assert (records["t0"].attempt, records["t1"].attempt) == (saved, 7)
    ledger.close()


def test_a_ledger_taken_away_is_not_made_anew(tmp_path: Path) -> None:
    """When the file is deleted or replaced under a running daemon, nothing more is saved, and no empty ledger takes its place."""
    state = tmp_path / "state"
    other = Ledger.open(tmp_path / "other", "lab")
    other.close()
    ledger = Ledger.open(state, "lab")
    ledger.save(new(RUN))
    (state / FILE_NAME).rename(tmp_path / "moved")
    for _ in range(2):
        with pytest.raises(LedgerUnwritable, match="moved, deleted or replaced"):
            ledger.save(changed(RUN.id, "t0", RUNNING))
    assert not (state / FILE_NAME).exists()
    shutil.copy(tmp_path / "other" / FILE_NAME, state / FILE_NAME)
    with pytest.raises(LedgerUnwritable, match="moved, deleted or replaced"):
        ledger.save(changed(RUN.id, "t0", RUNNING))
    with pytest.raises(LedgerUnwritable, match="moved, deleted or replaced"):
        ledger.prune(1.0, 1, 1)
    (tmp_path / "moved").rename(state / FILE_NAME)
    ledger.save(changed(RUN.id, "t0", RUNNING))
    assert ledger.live_runs()[0].records["t0"] == RUNNING
    ledger.close()


def damaged(tmp_path: Path) -> Path:
    """A sound ledger, some pages long, that nobody holds."""
    ledger = Ledger.open(tmp_path, "lab")
    for number in range(4):
        run = sample_run(f"{number:012x}", 100, digest=f"sha256:{number}")
        ledger.save(new(run))
        ledger.save(ended(run.id, 5.0))
    ledger.close()
    return tmp_path / FILE_NAME


def garbage(data: bytearray) -> bytes:
    return random.Random(1).randbytes(len(data))


def first_page(data: bytearray) -> bytes:
    data[:100] = bytes(100)
    return bytes(data)


def middle_pages(data: bytearray) -> bytes:
    for page in range(2 * 4096, len(data) - 4096, 2 * 4096):
        data[page : page + 12] = b"\xff" * 12
    return bytes(data)


def cut_in_half(data: bytearray) -> bytes:
    return bytes(data[: len(data) // 2])


def cut_within_a_page(data: bytearray) -> bytes:
    return bytes(data[:-1000])


def text_file(data: bytearray) -> bytes:
    return b"apiVersion: scripthut/v1\n" * 400


@pytest.mark.parametrize("damage", [garbage, first_page, middle_pages, cut_in_half, cut_within_a_page, text_file])
def test_a_damaged_file_is_named_and_kept(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]  # one of the functions above
    """A damaged ledger stops the start with the cure, and not one byte of it is changed."""
    path = damaged(tmp_path)
    broken = damage(bytearray(path.read_bytes()))
    path.write_bytes(broken)
    with pytest.raises(LedgerCorrupt, match=r"reconciler recover|is not a ledger"):
        Ledger.open(tmp_path, "lab")
    assert path.read_bytes() == broken
    assert holder(tmp_path) is None


def test_another_program_s_database_is_left_alone(tmp_path: Path) -> None:
    """A SQLite file that is not ours is neither used nor changed."""
    import sqlite3

    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(LedgerCorrupt, match="is not a ledger of this program"):
        Ledger.open(tmp_path, "lab")
    with pytest.raises(LedgerCorrupt, match="is not a ledger of this program"):
        LedgerReader(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_log_without_its_ledger_is_damage(tmp_path: Path) -> None:
    """When the file is gone but its log is there, no empty ledger is made, which would delete the log."""
    ledger = Ledger.open(tmp_path / "state", "lab")
    ledger.save(new(RUN))
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    shutil.copy(tmp_path / "state" / f"{FILE_NAME}-wal", copy)
    ledger.close()
    with pytest.raises(LedgerCorrupt, match="is gone, but its log"):
        Ledger.open(copy, "lab")
    assert (copy / f"{FILE_NAME}-wal").stat().st_size > 0


COUNT = """
import sys
from pathlib import Path
from reconciler.core.record import Event, TaskRecord
from reconciler.ledger import Batch, Ledger, TaskChange
from tests.ledger_samples import new, sample_run
run = sample_run(tasks=20)
ledger = Ledger.open(Path(sys.argv[1]), "lab")
if ledger.fresh:
    ledger.save(new(run))
number = ledger.live_runs()[0].records["t0"].attempt
while True:
    number += 1
    changes = tuple(TaskChange(run.id, task.id, TaskRecord(attempt=number, reason="x" * 200)) for task in run.tasks)
    ledger.save(Batch(tasks=changes, events=(Event(float(number), "Saved", run.id),)))
    print(number, flush=True)
"""


def test_kill_9_leaves_whole_transactions(tmp_path: Path) -> None:
    """However often it is killed while saving, every save that returned is there, and each is there whole."""
    chance = random.Random(7)
    for _ in range(20):
        with start(COUNT, str(tmp_path)) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(chance.randint(1, 60))]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.readlines()
        told = int([line for line in said if line.endswith("\n")][-1])
        with LedgerReader(tmp_path) as reader:
            attempts = {record.attempt for _, record in reader.tasks(RUN.id)}
            newest = reader.events(limit=1)[0].event.at
        assert attempts == {int(newest)}
        assert newest >= told
    ledger = Ledger.open(tmp_path, "lab")
    assert ledger.epoch == 21
    ledger.close()
