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
# What products are made in; int8 sums in 32 bits.
ARITHMETICS = ("float32", "bfloat16", "int8")
DEVICE_ARITHMETICS = ("bfloat16", "fp8")  # of GPUs


@dataclass(frozen=True)
class Ceiling:
    """``read``: bytes/s from memory. ``flops``: operations/s by type of arithmetic (a multiply-add is two),
    of ``ARITHMETICS`` those that were measured.
    """

    read: float
    flops: Mapping[str, float]

    def peak(self, arithmetic: str) -> float:
        """Operations/s. Those of 8 bits that were not measured are bfloat16's, which such products are made
        in then."""
        return self.flops.get(arithmetic) or self.flops["bfloat16"]

    def floor_us(self, flops: int, bytes: int, arithmetic: str) -> float:
        """No implementation on this machine takes less, unless its bytes come from a cache."""
        return 1e6 * max(flops / self.peak(arithmetic), bytes / self.read)

    def bound(self, flops: int, bytes: int, arithmetic: str) -> str:
        """Which of the two binds: ``read`` or ``flops``."""
        return "flops" if flops / self.peak(arithmetic) > bytes / self.read else "read"

    def describe(self) -> str:
        """``reads 30.1 GB/s, multiplies 235 GFLOP/s in float32, ...``, and what was not measured."""
        peaks = (
            f"{self.flops[kind] / 1e9:.0f} GFLOP/s in {kind}"
            if kind in self.flops
            else f"{kind} not measured"
            for kind in (ARITHMETICS if "float32" in self.flops else DEVICE_ARITHMETICS)
        )
        return f"reads {self.read / 1e9:.1f} GB/s, multiplies {', '.join(peaks)}"


@dataclass(frozen=True)
class Probes:
    """``read()``: bytes/s; ``peak(arithmetic)``: operations/s, None where there are no instructions for it.
    ``kinds``: of arithmetic that may be asked for.
    """

    read: Callable[[], float]
    peak: Callable[[str], float | None]
    kinds: tuple[str, ...] = ARITHMETICS

    def measure(self) -> Ceiling:
        """All ceilings, in well under a second each."""
        read, found = self.read(), {kind: self.peak(kind) for kind in self.kinds}
        return Ceiling(read, {kind: peak for kind, peak in found.items() if peak is not None})


def torch_probes() -> Probes:
    """Sums a large array, and multiplies squares that stay in the caches, on all of torch's threads."""
    values: list[torch.Tensor] = []

    def read() -> float:
        if not values:  # kept from one probe to the next: making it takes longer than reading it
            values.append(torch.ones(_READ_BYTES // 4))
        return _READ_BYTES / _best_seconds(values[0].sum)

    def peak(arithmetic: str) -> float | None:
        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(arithmetic)
        if kind is None:
            return None
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
