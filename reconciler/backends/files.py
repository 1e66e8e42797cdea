"""Files of the user on this machine: read within limits, and asked after without waiting for ever. Called by local.py.

Such a file may lie on a network file system that does not answer, and then every call on it hangs in the kernel, unkillable. So
each runs on a thread of its own that nobody waits for at the end; the event loop and other jobs are never held up.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from reconciler.backends.base import FileRange, FileRequest
from reconciler.backends.script import work_folder
from reconciler.clock import monotonic

T = TypeVar("T")
#: No answer carries more than this, whatever was asked for.
_BYTES_MAX = 16_000_000
_SILENT = "does not answer; is its file system there?"


#: How long a folder that could be used needs no other thread to ask again: short tasks start by the hundred in it.
FINE_S = 1.0


class Question(NamedTuple):
    """Can a job work in this folder, or (`written`) write this file?"""

    path: str
    written: bool


class Trouble(NamedTuple):
    """Why not, in words. `passing`: it may be different soon."""

    words: str
    passing: bool


class Files:
    """The user's files, where `~` is `home`. No answer takes longer than `wait_s`."""

    def __init__(self, home: str, wait_s: float = 10.0) -> None:
        self._home = home
        self._wait_s = wait_s
        self._asked: dict[Question, asyncio.Future[Trouble | None]] = {}
        self._fine: dict[Question, float] = {}  # until when a good answer holds

    def expanded(self, path: str, folder: str) -> str:
        """`path` as an absolute one: below the home folder for `~`, below `folder` when relative."""
        if path == "~" or path.startswith("~/"):
            return self._home + path[1:]
        return os.path.join(folder, path)

    async def ask(self, questions: Iterable[Question]) -> Mapping[Question, Trouble]:
        """The questions whose answer is no. One that is still being asked is not asked again, nor one that was just answered well: should
        that change within a second, the job itself says so."""
        now = monotonic()
        waiting = {each: self._ask(each) for each in questions if self._fine.get(each, 0.0) < now}
        if not waiting:
            return {}
        await asyncio.wait(set(waiting.values()), timeout=self._wait_s)
        answers = {each: future.result() if future.done() else Trouble(f"{each.path} {_SILENT}", True) for each, future in waiting.items()}
        self._fine = {each: until for each, until in self._fine.items() if until >= now}
        self._fine.update((each, now + FINE_S) for each, trouble in answers.items() if trouble is None)
        return {each: trouble for each, trouble in answers.items() if trouble is not None}

    def _ask(self, question: Question) -> asyncio.Future[Trouble | None]:
        if question not in self._asked:
            future = self._asked[question] = aside(partial(_answer, question))
            future.add_done_callback(lambda _: self._asked.pop(question, None))
        return self._asked[question]

    async def read(self, request: FileRequest, folder: str) -> FileRange:
        """The range that was asked for. `folder` is the job's own: where `out`, `err` and its default working directory are."""
        work = self.expanded(request.working_dir or work_folder(folder), folder)
        path = os.path.join(folder, request.path) if request.path in {"out", "err"} else self.expanded(request.path, work)
        future = aside(partial(_read_range, path, request.offset, min(max(0, request.bytes_max), _BYTES_MAX)))
        await asyncio.wait({future}, timeout=self._wait_s)
        return future.result() if future.done() else FileRange(None, problem=f"{path} {_SILENT}")


def aside(function: Callable[[], T]) -> asyncio.Future[T]:
    """The result of `function`, run on a thread that does not hold up the end of the program."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = function()
        except Exception as error:  # whatever it is belongs to whoever awaits the future
            _deliver(loop, partial(_fail, future, error))
        else:
            _deliver(loop, partial(_succeed, future, result))

    threading.Thread(target=run, daemon=True, name="reconciler-file").start()
    return future


def _deliver(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(what)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _answer(question: Question) -> Trouble | None:
    path = question.path
    if question.written:
        if os.path.isdir(path):
            return Trouble(f"the output file {path} is a folder", False)
        if os.path.exists(path) and os.access(path, os.W_OK):
            return None
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            return Trouble(f"the folder of the output file {path} does not exist", False)
        return None if os.access(folder, os.W_OK) else Trouble(f"the output file {path} cannot be written", False)
    if not os.path.exists(path):
        return Trouble(f"the working directory {path} does not exist", False)
    if not os.path.isdir(path):
        return Trouble(f"the working directory {path} is not a folder", False)
    return None if os.access(path, os.X_OK) else Trouble(f"the working directory {path} cannot be entered", False)


def _read_range(path: str, offset: int, bytes_max: int) -> FileRange:
    """Plain files only: to open a device or a pipe may do something, or wait for ever."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return FileRange(None, problem=f"{path} is not a plain file")
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return FileRange(None)
    except (OSError, ValueError) as error:
        return FileRange(None, problem=f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):  # exchanged since
            return FileRange(None, problem=f"{path} is not a plain file")
        begin = offset if offset >= 0 else max(0, info.st_size + offset)
        return FileRange(os.pread(handle, bytes_max, begin), info.st_size)
    except (OSError, OverflowError) as error:
        return FileRange(None, problem=f"{path} cannot be read: {error}")
    finally:
        os.close(handle)
