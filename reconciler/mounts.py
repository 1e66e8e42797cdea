"""Which file system a folder is on: what must be ours alone and never keep us waiting belongs on a disk of this machine.

Called by ledger/folder.py for the state folder and by backends/local.py for the spool. Linux only; elsewhere nothing is known.
"""

from __future__ import annotations

import re
from pathlib import Path

#: Their locks and shared memory do not hold across machines, and a call on one that does not answer hangs, unkillable.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
        "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb3", "smbfs", "wekafs", "fuse.ceph", "fuse.curlftpfs", "fuse.davfs",
        "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.lizardfs", "fuse.mfs", "fuse.moosefs", "fuse.mount-s3", "fuse.quobyte",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "fuse.weka",
    }
)  # fmt: skip


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, as Linux calls it; "" where there is no /proc to tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    return mounted_type(mounts, str(path.resolve()))


def mounted_type(mountinfo: str, path: str) -> str:
    """The type of the file system of the absolute `path`, given the text of /proc/self/mountinfo (format: proc(5))."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on one point, the later covers the earlier
            best, kind = point, right.split(" ")[0]
    return kind
