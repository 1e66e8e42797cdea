"""The mirror of one remote repository, and the process that fetches into it. Called by git.py, on the event loop.

The process is killed when it does not answer in time, or when nobody waits for it any more. So a dead server holds nothing: no
thread, no connection, no other source, and not the end of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import reconciler
from reconciler.errors import SourceRefused, SourceUnreachable
from reconciler.printable import redact_text
from reconciler.sources.git_fetch import Order
from reconciler.sources.git_ref import Ref

PASSED_ON = (
    "LANG",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    *(n for p in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY") for n in (p, p.lower())),
)
"""All that the process has of the daemon's environment: no agent's socket, no GIT_*, no other secret."""
SAID_MAX = 500


@dataclass(frozen=True, slots=True)
class Login:
    """Files with our private ssh key and with the host keys to trust. None: no key, and ~/.ssh/known_hosts."""

    deploy_key: Path | None
    known_hosts: Path | None


class Mirror:
    """A bare mirror under `folder`, which belongs to this source alone. Another url gets another mirror, and the old one goes."""

    def __init__(self, subject: str, url: str, ref: Ref, folder: Path, login: Login) -> None:
        folder = Path(os.path.abspath(folder))
        self.path = str(folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.git")
        self._folder = folder
        self._order = Order(
            subject=subject,
            url=url,
            kind=ref.kind,
            name=ref.name,
            mirror=self.path,
            home=str(folder / "home"),
            deploy_key=_absolute(login.deploy_key),
            known_hosts=_absolute(login.known_hosts or Path("~/.ssh/known_hosts")),
            timeout_s=0.0,
        )

    async def fetch(self, timeout_s: float) -> str:
        """The commit that the ref stands at; the mirror holds it now. Raises SourceError, at the latest after `timeout_s`."""
        order = json.dumps({**asdict(self._order), "timeout_s": timeout_s})
        subject = self._order.subject
        try:
            async with asyncio.timeout(timeout_s):
                code, out, err = await self._run(order.encode())
        except TimeoutError as late:
            raise SourceUnreachable(f"{subject} did not answer within {timeout_s:g} s") from late
        except OSError as error:  # no process, no memory, no folder
            raise SourceUnreachable(f"{subject}: the fetch could not be started: {error}") from error
        answer = _parsed(out)
        if "refused" in answer:
            raise SourceRefused(answer["refused"])
        if "unreachable" in answer:
            raise SourceUnreachable(answer["unreachable"])
        if "commit" not in answer:
            said = redact_text(err.decode(errors="replace").strip()[-SAID_MAX:])
            raise SourceUnreachable(f"{subject}: the fetch ended with {code} and no answer{': ' if said else ''}{said}")
        return answer["commit"]

    def discard(self) -> None:
        """Removes the mirror; the next fetch makes it anew. Blocks."""
        shutil.rmtree(self.path, ignore_errors=True)

    async def _run(self, order: bytes) -> tuple[int, bytes, bytes]:
        """Exit code, stdout and stderr of one fetch; it has ended when this returns or raises."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "reconciler.sources.git_fetch",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(),
            cwd="/",
            start_new_session=True,  # Ctrl-C in the daemon's terminal is not meant for it
        )
        try:
            out, err = await process.communicate(order)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, out, err

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        package = str(Path(reconciler.__file__).resolve().parents[1])
        return {**passed, "HOME": self._order.home, "PYTHONPATH": package, "PYTHONIOENCODING": "utf-8"}


def _absolute(path: Path | None) -> str:
    return os.path.abspath(path.expanduser()) if path is not None else ""


def _parsed(out: bytes) -> dict[str, str]:
    try:
        answer = json.loads(out)
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in answer.items()} if isinstance(answer, dict) else {}
