"""What a process that makes load needs: a fast event loop, turns at it, and enough open files."""

import asyncio
import resource
import signal
import threading
from collections.abc import Coroutine
from typing import TypeVar

from fullbore.errors import UsageError

SPARE_FILES = 64  # beside connections: the program's own

Found = TypeVar("Found")


def run(work: Coroutine[None, None, Found]) -> Found:
    """``asyncio.run`` on uvloop where there is one: it takes a third of the time for a chunk."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    before = signal.getsignal(signal.SIGINT)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(work)
    finally:  # uvloop leaves its own handler behind, with which a later Ctrl-C would do nothing
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


class Turns:
    """Lets one waiting task go on in each round of the event loop.

    Hundreds that began in one round would all be held up until the last of them had begun, and each would
    count that as the server's time.
    """

    def __init__(self) -> None:
        self._free = asyncio.Lock()

    async def take(self) -> None:
        async with self._free:
            await asyncio.sleep(0)


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files to what it may be. Raises UsageError where that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count + SPARE_FILES > hard:
        raise UsageError(
            f"{count} connections at once need {count + SPARE_FILES} open files, but this system lets a "
            f"process have {hard}: ask for fewer, use more --processes, or raise the limit (ulimit -Hn)"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
