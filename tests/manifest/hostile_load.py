"""Loads hostile files, each in a process of its own inside hard limits of time and memory, and prints what came of it as JSON lines.

Started by test_hostile.py. The operating system enforces the limits: a loader that needs more dies, which no timing in a test could prove.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from reconciler.manifest.load import load_file
from reconciler.sources.base import Blob

GOOD = b"apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {name: good}\nspec: {tasks: [{id: a, command: x}]}\n"
MEMORY_BYTES = 100 * 1024 * 1024  # above what the interpreter and the models take
#: The work is bounded to about 2 s on an idle machine; the rest is for slow and busy ones.
CPU_S = 10


def limited(path: str) -> None:
    """Load `path` with so little that a careless loader dies, then a good file, and print both results on one line."""
    data = Path(path).read_bytes()
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    used_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used_s) + CPU_S,) * 2)
    loaded = load_file(path, Blob("1", data), source="")
    after = load_file("after.yaml", Blob("2", GOOD), source="")
    json.dump(
        {
            "file": Path(path).name,
            "problems": [str(problem).removeprefix(path) for problem in loaded.problems],
            "documents": [document.name for document in loaded.documents],
            "unknown": loaded.names_unknown,
            "after": [document.name for document in after.documents],
        },
        sys.stdout,
    )
    print(flush=True)


def main(paths: list[str]) -> None:
    """A child for each file, so that the interpreter and the models are loaded only once."""
    load_file("warm.yaml", Blob("0", GOOD), source="")
    for path in paths:
        child = os.fork()
        if child == 0:
            try:
                limited(path)
            except MemoryError:
                os._exit(9)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            print(json.dumps({"file": Path(path).name, "died": status}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
