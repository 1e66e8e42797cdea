"""Blocking calls off the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from reconciler.errors import SourceUnreachable
from reconciler.sources.offloop import OffLoop


async def test_it_returns_and_raises_what_the_call_does() -> None:
    """The caller gets the call's value, or its error."""
    off_loop = OffLoop("source x")
    assert await off_loop.run(lambda: 5, 5) == 5
    with pytest.raises(ZeroDivisionError):
        await off_loop.run(lambda: 1 // 0, 5)
    assert await off_loop.run(threading.get_ident, 5) != threading.get_ident()


async def test_a_hanging_call_is_given_up_and_not_joined_by_another() -> None:
    """A call that hangs is late once; until it ends every further one fails at once; then they work again."""
    off_loop, free, ended = OffLoop("source x"), threading.Event(), threading.Event()

    def hang() -> None:
        free.wait(30)
        ended.set()

    with pytest.raises(SourceUnreachable, match=r"source x: the disk did not answer within 0\.05 s"):
        await off_loop.run(hang, 0.05)
    with pytest.raises(SourceUnreachable, match="has not answered an earlier look yet"):
        await off_loop.run(lambda: 5, 5)
    free.set()
    assert ended.wait(5)
    await asyncio.sleep(0)
    for _ in range(1000):  # the thread's last act is on its way to the loop
        try:
            assert await off_loop.run(lambda: 5, 5) == 5
            return
        except SourceUnreachable:
            await asyncio.sleep(0.005)
    pytest.fail("it never worked again")


async def test_a_hanging_source_does_not_delay_another() -> None:
    """While one source's disk hangs, another's call is answered."""
    dead, alive, free = OffLoop("dead"), OffLoop("alive"), threading.Event()
    hanging = asyncio.create_task(dead.run(lambda: free.wait(30), 30))
    await asyncio.sleep(0)
    assert await alive.run(lambda: 5, 5) == 5
    free.set()
    assert await hanging is True


async def test_a_cancelled_look_is_not_held_against_the_next() -> None:
    """A call whose caller was cancelled is waited for, and then the next one runs."""
    off_loop, free = OffLoop("source x"), threading.Event()
    first = asyncio.create_task(off_loop.run(lambda: free.wait(30), 30))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(off_loop.run(lambda: 5, 5))
    await asyncio.wait({second}, timeout=0.1)
    assert not second.done()  # one call at a time
    free.set()
    assert await second == 5


def test_a_hanging_call_does_not_keep_the_process() -> None:
    """A process ends although a thread of it hangs in a read that never returns."""
    script = (
        "import asyncio, os\n"
        "from reconciler.errors import SourceUnreachable\n"
        "from reconciler.sources.offloop import OffLoop\n"
        "end, _ = os.pipe()\n"
        "try:\n"
        "    asyncio.run(OffLoop('x').run(lambda: os.read(end, 1), 0.05))\n"
        "except SourceUnreachable:\n"
        "    print('late')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (ended.stdout, ended.returncode, ended.stderr) == ("late\n", 0, "")
