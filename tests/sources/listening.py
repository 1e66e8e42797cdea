"""Follows a source as the controller does: looks when it says that a look is worth while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reconciler.errors import SourceError
from reconciler.sources.base import Source, Tree

DEADLINE_S = 15.0


class Listener:
    """Looks whenever `source.changes()` yields, and remembers the last answer. Use `async with`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tree: Tree | None = None
        self.error: SourceError | None = None
        self.looks = 0
        self._answered = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.source.close()
        assert self._task is not None
        await asyncio.wait_for(self._task, DEADLINE_S)

    async def until(self, holds: Callable[[Listener], bool]) -> None:
        """Waits until an answer makes `holds` true; fails after a deadline and says what the last answer was."""
        try:
            async with asyncio.timeout(DEADLINE_S), self._answered:
                await self._answered.wait_for(lambda: holds(self))
        except TimeoutError:
            files = sorted(self.tree.files()) if self.tree else None
            raise AssertionError(f"not within {DEADLINE_S} s; last tree has {files}, last error is {self.error!r}") from None

    async def _follow(self) -> None:
        async for _ in self.source.changes():
            try:
                self.tree, self.error = await self.source.look(), None
            except SourceError as error:
                self.error = error
            self.looks += 1
            async with self._answered:
                self._answered.notify_all()


def texts(tree: Tree | None) -> dict[str, str]:
    """A tree's files as path -> text."""
    return {} if tree is None else {path: blob.data.decode() for path, blob in tree.files().items()}
