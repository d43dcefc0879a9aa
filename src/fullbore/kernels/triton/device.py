"""What the Triton kernels share: where they run, and how weights come there."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import triton
from torch import Tensor

from fullbore.ops.contract import Kernel
from fullbore.ops.formats import BLOCK, E4M3_MAX, Weight

INTERPRETED = bool(triton.knobs.runtime.interpret)
HOPPER_LOCAL_BYTES = 227 << 10
CDNA_LOCAL_BYTES = 64 << 10


@dataclass(frozen=True)
class Target:
    """What kernels are launched on.

    device: torch's name of it. processors: streaming multiprocessors or compute units. local_bytes: memory
    that one program may use beside registers. fnuz: whether its FP8 is e4m3fnuz (AMD's gfx940 to gfx942).
    amd: whether it is AMD's.
    """

    device: str
    processors: int
    local_bytes: int = HOPPER_LOCAL_BYTES
    fnuz: bool = False
    amd: bool = False

    @property
    def fp8(self) -> torch.dtype:
        """The e4m3 that it multiplies."""
        return torch.float8_e4m3fnuz if self.fnuz else torch.float8_e4m3fn

    @property
    def fp8_largest(self) -> float:
        """What the largest of a group is scaled to. e4m3fnuz reaches 240."""
        return 240.0 if self.fnuz else E4M3_MAX

    @property
    def roomy(self) -> bool:
        """Whether tiles of several steps fit in local memory at once."""
        return self.local_bytes > CDNA_LOCAL_BYTES

    def launch(
        self, kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 3, **meta: Any
    ) -> None:
        """``stages``: tiles on their way at once, fewer where they would not fit."""
        if INTERPRETED:  # which knows neither
            kernel[grid](*args, **meta)
        else:
            kernel[grid](*args, num_warps=warps, num_stages=stages if self.roomy else min(stages, 2), **meta)


@functools.cache
def here() -> Target:
    """The current device; the CPU in Triton's interpreter (TRITON_INTERPRET=1), which tests use."""
    if INTERPRETED:
        return Target("cpu", 4)
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    known = triton.runtime.driver.active.utils.get_device_properties(torch.cuda.current_device())
    amd = torch.version.hip is not None
    fnuz = amd and properties.gcnArchName.startswith("gfx94")
    return Target("cuda", properties.multi_processor_count, known["max_shared_mem"], fnuz, amd)


def power_of_two(size: int, least: int = 16) -> int:
    """The least that is not smaller, and no smaller than what the hardware multiplies."""
    return max(least, 1 << (size - 1).bit_length())


class Matrix(NamedTuple):
    """A matrix on the device. ``data``: [..., out, in]; ``scale``: [..., ceil(out / rows), ceil(in / 128)]
    float32, one factor for ``rows`` outputs and 128 inputs, or empty."""

    data: Tensor
    scale: Tensor
    rows: int


class TritonKernel(Kernel):
    """The common part: devices, types and the transport of weights.

    ``target``: another one than this process's own, for tests.
    """

    name = "triton"
    layout = "triton_rows"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    formats: ClassVar[tuple[str, ...]] = ("fp8_block", "bf16")
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)

    def __init__(self, dtype: str, target: Target | None = None) -> None:
        super().__init__(dtype)
        self.target = target or here()
        self.launch = self.target.launch

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.target.device)

    def place(self, *weights: Weight) -> Matrix:
        """Matrices of one format, one above the other, on the device."""
        data = torch.cat([weight.data for weight in weights])
        if weights[0].scale is None:
            return Matrix(self.to_device(data), self.to_device(torch.empty(0)), 1)
        scales = [weight.scale for weight in weights if weight.scale is not None]
        rows = BLOCK
        if any(len(weight.data) % BLOCK for weight in weights[:-1]):  # blocks of one begin inside another's
            rows = 1
            scales = [
                scale.repeat_interleave(BLOCK, dim=0)[: len(weight.data)]
                for scale, weight in zip(scales, weights, strict=True)
            ]
        data, scale = native_fp8(data, torch.cat(scales)) if self.target.fnuz else (data, torch.cat(scales))
        return Matrix(self.to_device(data), self.to_device(scale), rows)


def native_fp8(data: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same numbers in e4m3fnuz, the only e4m3 of CDNA3.

    Its exponents are one higher: the same bits are half the value. Its one pattern for nan is e4m3fn's
    negative zero, which becomes zero. e4m3fn's nan becomes a number: a checkpoint's weights hold none.
    """
    bits = data.view(torch.uint8)
    return torch.where(bits == 0x80, 0, bits).view(torch.float8_e4m3fnuz), 2 * scale
