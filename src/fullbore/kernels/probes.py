"""Which probes measure this machine's ceilings: the native library's where there is one, else torch's."""

import importlib
from ctypes import c_double, c_int64, c_void_p
from itertools import cycle

import torch

from fullbore.hardware.ceiling import ARITHMETICS, Probes, torch_probes

_READ_BYTES = 512 << 20  # far beyond any last-level cache
_PAGE = 4096
_STRIDE_BYTES = 16 << 20  # from one sweep to the next: what one leaves in a cache is not read again
_REPEATS = 3


def probes() -> Probes:
    """The best there are here."""
    try:
        native = importlib.import_module("fullbore.kernels.cpu.native").native()
        read, peak = native.lib["fb_read_probe"], native.lib["fb_peak_probe"]
        huge = native.lib["fb_huge"]
    except (ImportError, AttributeError):  # none was built, or one without probes
        return torch_probes()
    read.argtypes, read.restype = (c_void_p, c_void_p, c_int64), c_double  # GB/s
    peak.argtypes, peak.restype = (c_void_p, c_int64), c_double  # GFLOP/s, 0 without such an instruction
    memory = torch.empty(_READ_BYTES, dtype=torch.uint8)
    huge.argtypes, huge.restype = (c_void_p, c_int64), None
    huge(_page(memory), _READ_BYTES - _PAGE)  # as packed weights are kept: small pages read slower
    memory.fill_(1)

    def read_bytes() -> float:
        return 1e9 * max(float(read(native.pool, memory.data_ptr(), _READ_BYTES)) for _ in range(_REPEATS))

    def flops(arithmetic: str) -> float | None:
        number = ARITHMETICS.index(arithmetic)
        found = max(float(peak(native.pool, number)) for _ in range(_REPEATS))
        if not found and arithmetic == "bfloat16":
            return flops("float32")  # which bfloat16 is widened to
        return 1e9 * found or None

    turns = cycle(range(memory.data_ptr(), memory.data_ptr() + _READ_BYTES // 2, _STRIDE_BYTES))

    def sweep(bytes: int) -> None:
        read(native.pool, next(turns), min(bytes, _READ_BYTES // 2))

    return Probes(read_bytes, flops, sweep=sweep)


def _page(memory: torch.Tensor) -> int:
    """Address of the first whole page in ``memory``."""
    return memory.data_ptr() + -memory.data_ptr() % _PAGE
