"""On which processors the pool's workers stay. ``FULLBORE_PIN``: 1 keeps each on one, 0 none.

Memory lies on the node whose thread first writes it, and weights are packed by the pool that reads them, so a
worker that moves to another node reads through the link between them. Unless told, workers are kept where
there are several nodes and this process computes on every core of them: then no other choice of processors is
left. Fewer threads are placed by the system, since two servers that each chose the same few processors would
share those and leave the rest idle.
"""

import logging
from collections.abc import Mapping, Sequence

from fullbore.errors import UsageError
from fullbore.flags import TRUTH
from fullbore.hardware.topology import Cpu, core_count, spread

VARIABLE = "FULLBORE_PIN"
_log = logging.getLogger(__name__)


def places(environ: Mapping[str, str], threads: int, cpus: Sequence[Cpu]) -> tuple[int, ...]:
    """The processor of each of ``threads`` workers, in order of node; empty where none is kept on one.

    The first is left free for the caller, who is never pinned. UsageError for a ``FULLBORE_PIN`` that is
    neither yes nor no.
    """
    asked = environ.get(VARIABLE, "").strip().lower()
    if asked and asked not in TRUTH:
        raise UsageError(f"{VARIABLE}={asked!r}: expected one of {', '.join(TRUTH)}, or nothing")
    fits = threads <= len(cpus)
    if asked and TRUTH[asked] and not fits:
        _log.warning(
            "%s=%s is not followed: there are %d threads and %d processors that this process may use",
            VARIABLE, asked, threads, len(cpus),
        )  # fmt: skip
    several = len({cpu.node for cpu in cpus}) > 1 and threads >= core_count(cpus)
    if not fits or not (TRUTH[asked] if asked else several):
        return ()
    return tuple(cpu.number for cpu in spread(cpus, threads))
