"""A machine that we can run a program on: the one thing that a batch system's far side must offer. Called by backends/cluster.py.

A *program* is POSIX shell text. It travels as content, over standard input, and is run by `/bin/sh` in a clean environment only when
all of it has arrived: a connection that is cut while it travels runs nothing. It is never part of a command line, and neither is
any user's value. `ENTRY` is the constant command line that does so, the same on every host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from reconciler.errors import Unreachable

#: Ends every program that is sent, so that the far side knows one that was cut short.
WHOLE = "#whole\n"
#: The exit code of `ENTRY` when the program that arrived was not whole.
CUT_SHORT_EXIT = 97
#: What is left of the environment on the far side: what a scheduler's commands and a user's job need, and nothing else, so that neither
#: a key, an agent's socket nor an option that a profile sets (SBATCH_…) gets into a job.
_KEPT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ", "SLURM_CONF", "PBS_CONF_FILE", "PBS_EXEC", "LD_LIBRARY_PATH")
_ENVIRONMENT = " ".join(f'${{{name}+"{name}=${name}"}}' for name in _KEPT)
_ENTRY_PROGRAM = (
    f"exec env -i {_ENVIRONMENT} /bin/sh -c "
    '"p=\\$(cat; echo .); exec </dev/null; '
    f'case \\$p in *\\"{WHOLE.strip()}\\"?.) eval \\"\\${{p%.}}\\";; *) exit {CUT_SHORT_EXIT};; esac"'
)


def entry(login_shell: bool) -> str:
    """The constant command line. With `login_shell` the user's profile is read first: some sites set PATH only there.

    It holds no double use of single quotes, `!` or newline, so that every login shell (csh, fish) hands it on as it is.
    """
    return f"exec /bin/bash -lc '{_ENTRY_PROGRAM}'" if login_shell else f"exec /bin/sh -c '{_ENTRY_PROGRAM}'"


class NotBegun(Unreachable):
    """The host could not be reached, and it is proven that nothing of the program was run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back of a program. `elapsed_s` is from when it was handed over to its end."""

    code: int
    out: bytes
    err: bytes
    elapsed_s: float


class Host(Protocol):
    """One machine, over one connection that is made when needed and kept."""

    async def run(self, program: str, timeout_s: float) -> Outcome:
        """Run a program, and return what it wrote and how it ended.

        Raises NotBegun when nothing was run, and Unreachable when that is not known: no answer in time, the connection broke. The
        far side may go on then. A program that ends with any code is no error. Neither is one that writes to its standard error.
        """
        ...

    async def close(self) -> None:
        """End the connection. Programs that still run are left alone."""
        ...

    @property
    def where(self) -> str:
        """The host for people: `user@login.example.org`, or `this machine`."""
        ...
