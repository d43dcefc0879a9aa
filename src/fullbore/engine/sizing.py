"""How large the paged cache is, how long a request may be, and how many cores compute.

Sizes come from the flags where they are given; what was left to us is chosen for this machine, and whatever
does not fit is refused with the figure that would.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from fullbore.engine.options import EngineOptions
from fullbore.errors import CapacityError, UsageError

GIB = 1 << 30
# Of the memory that is free once the weights are in, what the cache takes unless told otherwise. The rest is
# for activations, the HTTP process and whoever else lives here.
CACHE_SHARE = 0.5
# Tokens that most requests stay below; a model that allows 163840 does not see that length 64 times at once.
USUAL_LENGTH = 8192
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Sizes:
    """``pages`` of the cache; ``max_model_len`` tokens of prompt and answer in one request."""

    pages: int
    max_model_len: int


def size_cache(options: EngineOptions, context: int, bytes_per_page: int, free_bytes: int) -> Sizes:
    """Pages and the longest request, for a model that allows ``context`` tokens.

    ``kv_gb`` 0: as many pages as ``max_num_seqs`` requests of ``USUAL_LENGTH`` want, or one of full length
    if that is more, within ``CACHE_SHARE`` of ``free_bytes``. ``max_model_len`` 0: what the model allows and
    the pages hold. Raises UsageError for a length beyond the model's, CapacityError for what memory does
    not hold.
    """
    if options.page_size < 1:
        raise UsageError(f"--page-size {options.page_size} is too small: expected at least 1 token")
    if options.kv_gb < 0 or not math.isfinite(options.kv_gb):
        raise UsageError(f"--kv-gb {options.kv_gb} is no size: expected GiB, or 0 to choose for this machine")
    wanted_length = options.max_model_len or context
    if not 2 <= wanted_length <= context:
        raise UsageError(
            f"--max-model-len {options.max_model_len} is not what the model allows: expected 2 to {context}"
        )
    affordable = free_bytes // bytes_per_page
    free_gb, page_gb = free_bytes / GIB, bytes_per_page / GIB
    one_request = math.ceil(wanted_length / options.page_size)
    if options.kv_gb:
        pages = int(options.kv_gb * GIB / bytes_per_page)
        if pages > affordable:
            raise CapacityError(
                f"--kv-gb {options.kv_gb:g} exceeds the {free_gb:.1f} GiB free after weights (lower it)"
            )
    else:
        usual = math.ceil(min(wanted_length, USUAL_LENGTH) / options.page_size)
        pages = min(max(options.max_num_seqs * usual, one_request), int(affordable * CACHE_SHARE))
    if pages < 1 or (options.max_model_len and pages < one_request):
        least = one_request if options.max_model_len else 1
        raise CapacityError(
            f"the cache has {max(pages, 0)} pages, {least} of {options.page_size} tokens are needed: give it "
            f"--kv-gb {least * page_gb:.3g} or more ({free_gb:.1f} GiB are free after weights), "
            f"or lower --{'max-model-len' if options.max_model_len else 'page-size'}"
        )
    return Sizes(pages, min(wanted_length, pages * options.page_size))


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


def usable_cores() -> int:
    """Cores this process may use: its affinity, within the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_file = _CGROUP / "cpu.max"
    if quota_file.exists():
        quota, period = quota_file.read_text().split()[:2]
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def _number(path: Path) -> int | None:
    """The number in a control file; None when the file is absent or says ``max``."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None


def _cgroup_file_bytes() -> int:
    path = _CGROUP / "memory.stat"
    fields = dict(line.split() for line in path.read_text().splitlines()) if path.exists() else {}
    return int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
