"""Keeping threads on their cores while they are timed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_TASKS = Path("/proc/self/task")


@contextlib.contextmanager
def pinned() -> Iterator[bool]:
    """Every thread of this process on one core each, in the order of their making; as before afterwards.

    A pool makes its threads one after the other, so its members come to lie on unlike cores. They must exist
    already: a thread made within would inherit its maker's single core. Yields False where it cannot be done.
    """
    if not hasattr(os, "sched_setaffinity") or not _TASKS.exists():
        yield False
        return
    cores = sorted(os.sched_getaffinity(0))
    before: dict[int, set[int]] = {}
    main = os.getpid()
    try:
        others = sorted(int(task.name) for task in _TASKS.iterdir() if int(task.name) != main)
        for place, thread in enumerate([main, *others]):
            # The main thread computes with every pool, so the pools' own threads take turns on the rest.
            core = cores[0] if place == 0 or len(cores) == 1 else cores[1 + (place - 1) % (len(cores) - 1)]
            with contextlib.suppress(ProcessLookupError):
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, {core})
        yield True
    finally:
        for thread, mask in before.items():
            with contextlib.suppress(ProcessLookupError, OSError):
                os.sched_setaffinity(thread, mask)
