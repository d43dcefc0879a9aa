"""How late this process does what is due: because of its own work, or of others on its cores."""

import asyncio
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

SAMPLE_S = 0.01
TIMER_S = 0.001  # to which an event loop's timers are exact


@asynccontextmanager
async def lag_of() -> AsyncIterator["array[float]"]:
    """How late timers fire in this event loop, in seconds, sampled for as long as the context lasts.

    A chunk waits as long as a timer does, so times of chunks are late by about so much. Every timer that was
    due during a long stall is counted, not only the first. An event loop's timers are exact to a
    millisecond: one that fires early by less counts as on time.
    """
    samples = array("d")

    async def sample() -> None:
        due_s = time.perf_counter() + SAMPLE_S
        while True:
            await asyncio.sleep(due_s - time.perf_counter())
            now_s = time.perf_counter()
            while due_s <= now_s + TIMER_S:
                samples.append(max(0.0, now_s - due_s))
                due_s += SAMPLE_S

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
