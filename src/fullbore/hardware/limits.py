"""What of this machine the process may use: the container's limits included. Imports no torch."""

import math
import os
from pathlib import Path

from fullbore.hardware.topology import allowed_cpus, core_count

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Threads that compute, unless told otherwise: one for each core of this process's affinity, within the
    container's quota.

    Processors of one core share its arithmetic, and what waits on one slows the other. Where the affinity is
    a single core, each of its processors counts: one thread on a pair was never measured against two.
    """
    cpus = allowed_cpus()
    cores = core_count(cpus)
    if cores == 1:
        cores = len(cpus)
    quota_file = _CGROUP / "cpu.max"
    if quota_file.exists():
        quota, period = quota_file.read_text().split()[:2]
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def busy_load(threads: int) -> float:
    """How many others want the cores of ``threads``, where they are enough to spoil times; else 0."""
    load = os.getloadavg()[0]
    return load if load >= max(1.0, 0.5 * threads) else 0.0


def free_memory_bytes() -> int:
    """Memory that can be had now without swapping: the machine's and the container's, whichever is less."""
    free = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        # File pages count as used there but are dropped when memory is wanted.
        free.append(max(0, limit - used + _cgroup_file_bytes()))
    return min(free) if free else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _number(path: Path) -> int | None:
    """The number in a control file; None when the file is absent or says ``max``."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None


def _cgroup_file_bytes() -> int:
    path = _CGROUP / "memory.stat"
    fields = dict(line.split() for line in path.read_text().splitlines()) if path.exists() else {}
    return int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
