"""The ceilings of a GPU: bytes read and operations done in a second, by its own events."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fullbore.hardware.ceiling import DEVICE_ARITHMETICS, Probes
from fullbore.tune.graphs import Stream

READ_BYTES = 2 << 30  # far beyond any last-level cache
SIZE = 8192  # of square matrices: the largest share of peaks that data sheets state
REPEATS = 7
CALLS = 4  # in one reading


def device_probes(stream: Stream, place: str = "cuda") -> Probes:
    """Of the device in ``place``; sums a large array, and multiplies large squares."""
    measured = _Measured(stream, place)
    return Probes(measured.read_bytes_s, measured.flop_s, DEVICE_ARITHMETICS)


@dataclass
class _Measured:
    stream: Stream
    place: str
    read_bytes: int = READ_BYTES
    size: int = SIZE
    _values: list[Tensor] = field(default_factory=list)  # kept from one probe to the next

    def read_bytes_s(self) -> float:
        """By torch's own sum or by ours in Triton, whichever is faster."""
        if not self._values:
            self._values.append(torch.ones(self.read_bytes // 4, dtype=torch.int32, device=self.place))
        values = self._values[0]
        ways: list[Callable[[], object]] = [values.view(torch.float32).sum]
        try:
            ours: Any = importlib.import_module("fullbore.kernels.triton.probe")
            ways.append(lambda: ours.read(values))
        except ImportError:  # no Triton: torch's alone
            pass
        return self.read_bytes / min(map(self._best_s, ways))

    def flop_s(self, arithmetic: str) -> float | None:
        """None where this device has no such products."""
        multiply = {"bfloat16": self._bfloat16, "fp8": self._fp8}.get(arithmetic)
        try:
            return 2 * self.size**3 / self._best_s(multiply()) if multiply else None
        except (RuntimeError, ValueError):  # torch says so in either way
            return None

    def _bfloat16(self) -> Callable[[], object]:
        left, right = (self._square().to(torch.bfloat16) for _ in range(2))
        return lambda: left @ right.T

    def _fp8(self) -> Callable[[], object]:
        # AMD's CDNA3 has e4m3 with another bias.
        fnuz = torch.version.hip is not None and "gfx94" in torch.cuda.get_device_properties(0).gcnArchName
        kind = torch.float8_e4m3fnuz if fnuz else torch.float8_e4m3fn
        left, right = (self._square().to(kind) for _ in range(2))
        one = torch.ones((), device=self.place)
        return lambda: torch._scaled_mm(left, right.T, one, one, out_dtype=torch.bfloat16)

    def _square(self) -> Tensor:
        """Numbers as a network's are: with zeros or ones less power is drawn, and the clock stays higher."""
        return torch.randn(self.size, self.size, device=self.place)

    def _best_s(self, call: Callable[[], object]) -> float:
        """The shortest of several: a ceiling is what can be had, not what is usual."""

        def calls() -> None:
            for _ in range(CALLS):
                call()

        calls()
        return max(min(self.stream.seconds(calls) for _ in range(REPEATS)) / CALLS, 1e-9)
