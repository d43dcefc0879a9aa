"""The two ceilings under which every operator runs: bytes read and operations done in a second, measured.

These change within seconds where machines are shared, so they are probed again beside every job that is
timed. Probes are functions so that a native library can bring better ones; those below need only torch.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

_READ_BYTES = 256 << 20  # far beyond any last-level cache that a probe could be fooled by
_SIZE = 1024
_REPEATS = 5


@dataclass(frozen=True)
class Ceiling:
    """``read``: bytes/s from memory. ``flops``: operation/s by type of arithmetic (a multiply-add is two)."""

    read: float
    flops: Mapping[str, float]

    def floor_us(self, flops: int, bytes: int, dtype: str) -> float:
        """No implementation on this machine takes less, unless its bytes come from a cache."""
        return 1e6 * max(flops / self.flops[dtype], bytes / self.read)

    def bound(self, flops: int, bytes: int, dtype: str) -> str:
        """Which of the two binds: ``read`` or ``flops``."""
        return "flops" if flops / self.flops[dtype] > bytes / self.read else "read"


@dataclass(frozen=True)
class Probes:
    """``read()``: bytes/s; ``peak(dtype)``: operations/s in float32 or bfloat16."""

    read: Callable[[], float]
    peak: Callable[[str], float]

    def measure(self) -> Ceiling:
        """Both ceilings, in well under a second each."""
        return Ceiling(self.read(), {dtype: self.peak(dtype) for dtype in ("float32", "bfloat16")})


def torch_probes() -> Probes:
    """Sums a large array, and multiplies squares that stay in the caches, on all of torch's threads."""
    values: list[torch.Tensor] = []

    def read() -> float:
        if not values:  # kept from one probe to the next: making it takes longer than reading it
            values.append(torch.ones(_READ_BYTES // 4))
        return _READ_BYTES / _best_seconds(values[0].sum)

    def peak(dtype: str) -> float:
        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        left, right = torch.ones(_SIZE, _SIZE, dtype=kind), torch.ones(_SIZE, _SIZE, dtype=kind)
        return 2 * _SIZE**3 / _best_seconds(lambda: left @ right)

    return Probes(read, peak)


def _best_seconds(call: Callable[[], object]) -> float:
    """The shortest of several: a ceiling is what can be had, not what is usual."""
    call()
    taken = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return max(min(taken), 1e-9)
