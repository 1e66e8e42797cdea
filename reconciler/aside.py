"""What takes long, on a thread that never holds up the end of the daemon. Used by the parts of the loop.

`asyncio.to_thread` will not do: its threads are waited for when the loop ends, and a large tree of manifests may take a minute.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns or raises, from a daemon thread of its own. Cancelling leaves the thread to its end, unheard."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if answer.done():
            return  # nobody waits any more
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(value)  # type: ignore[arg-type]  # a T whenever there is no error

    def work() -> None:
        value, failure = None, None
        try:
            value = function(*args, **kwargs)
        except BaseException as error:  # every outcome is carried to whoever waits, and raised there
            failure = error
        try:
            loop.call_soon_threadsafe(settle, value, failure)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=work, name=getattr(function, "__name__", "aside"), daemon=True).start()
    return await answer
