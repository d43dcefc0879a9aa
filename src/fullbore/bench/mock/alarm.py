"""Wakes an event loop at a moment of ``time.perf_counter``.

The loop's own timers are rounded to milliseconds, which would be the largest error of the mock server. Linux
has timers that are readable files and as precise as its clock; elsewhere the loop's have to do.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

ABSOLUTE = 1  # TFD_TIMER_ABSTIME
MONOTONIC = 1  # CLOCK_MONOTONIC, which is what perf_counter reads on Linux


class _Timer(ctypes.Structure):
    """struct itimerspec: an interval, here zero, then the moment; zero in all switches the timer off."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """Calls ``ring`` once after each ``set``, at the moment or soon after. ``close`` it before its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop, self._ring = loop, ring
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file >= 0:
            loop.add_reader(self._file, self._rung)

    def set(self, at_s: float | None) -> None:
        """Ring at this moment instead of the one set before; None: not at all."""
        if self._file >= 0:
            at_ns = max(1, round(at_s * 1e9)) if at_s is not None else 0
            self._arm(at_ns)
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if at_s is not None:
            self._handle = self._loop.call_later(max(0.0, at_s - time.perf_counter()), self._ring)

    def close(self) -> None:
        self.set(None)
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _rung(self) -> None:
        self._arm(0)  # else the file stays readable
        self._ring()

    def _arm(self, at_ns: int) -> None:
        timer = _Timer(0, 0, *divmod(at_ns, 10**9))
        if self._libc.timerfd_settime(self._file, ABSOLUTE, ctypes.byref(timer), None):
            raise OSError(ctypes.get_errno(), "a timer cannot be set")
