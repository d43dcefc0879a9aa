"""Waiting for so many seconds on this thread."""

import time

_SPIN_S = 2e-4  # a sleep may end as much later than asked


def wait(seconds: float) -> None:
    """Not less than ``seconds``; sleeps first where that is long, since others may use the core."""
    end = time.perf_counter() + seconds
    if seconds > _SPIN_S:
        time.sleep(seconds - _SPIN_S)
    while time.perf_counter() < end:
        pass
