"""What the Triton kernels share: where they run, how weights come there, and how two tiles are multiplied."""

import functools
from typing import Any, ClassVar, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fullbore.ops.contract import Kernel
from fullbore.ops.formats import BLOCK, Weight

INTERPRETED = bool(triton.knobs.runtime.interpret)
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter multiplies tiles of bfloat16 wrongly; float32 holds them exactly.
WIDE: tl.constexpr = tl.constexpr(INTERPRETED)


@triton.jit
def product(left, right, sums):
    """sums + left @ right, in float32. left: [m, k]; right: [k, n], both bfloat16."""
    if WIDE:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sums)
    return tl.dot(left, right, sums)


class Matrix(NamedTuple):
    """A matrix on the device. ``data``: [..., out, in]; ``scale``: [..., ceil(out / rows), ceil(in / 128)]
    float32, one factor for ``rows`` outputs and 128 inputs, or empty."""

    data: Tensor
    scale: Tensor
    rows: int


class TritonKernel(Kernel):
    """The common part: devices, types and the transport of weights."""

    name = "triton"
    layout = "triton_rows"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    formats: ClassVar[tuple[str, ...]] = ("fp8_block", "bf16")
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)

    def place(self, *weights: Weight) -> Matrix:
        """Matrices of one format, one above the other, on the device."""
        data = torch.cat([weight.data for weight in weights])
        if weights[0].scale is None:
            return Matrix(data.to(DEVICE), torch.empty(0, device=DEVICE), 1)
        scales = [weight.scale for weight in weights if weight.scale is not None]
        rows = BLOCK
        if any(len(weight.data) % BLOCK for weight in weights[:-1]):  # blocks of one begin inside another's
            rows = 1
            scales = [
                scale.repeat_interleave(BLOCK, dim=0)[: len(weight.data)]
                for scale, weight in zip(scales, weights, strict=True)
            ]
        data, scale = _native_fp8(data, torch.cat(scales))
        return Matrix(data.to(DEVICE), scale.to(DEVICE), rows)


def _native_fp8(data: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same numbers in the e4m3 of this device.

    CDNA3 knows only e4m3fnuz, whose exponents are one higher: the same bits are half the value. Its one
    pattern for nan is e4m3fn's negative zero, which becomes zero.
    """
    if not is_fnuz():
        return data, scale
    bits = data.view(torch.uint8)
    return torch.where(bits == 0x80, 0, bits).view(torch.float8_e4m3fnuz), 2 * scale


@functools.cache
def is_fnuz() -> bool:
    """Whether FP8 on this device is e4m3fnuz (AMD's gfx940 to gfx942)."""
    if INTERPRETED or torch.version.hip is None:
        return False
    return str(torch.cuda.get_device_properties(0).gcnArchName).startswith("gfx94")


@functools.cache
def processors() -> int:
    """Streaming multiprocessors, or compute units; a small number in the interpreter."""
    if INTERPRETED:
        return 4
    return int(torch.cuda.get_device_properties(0).multi_processor_count)


def call(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 3, **meta: Any) -> None:
    """Launch; the interpreter knows neither warps nor stages."""
    if INTERPRETED:
        kernel[grid](*args, **meta)
    else:
        kernel[grid](*args, num_warps=warps, num_stages=stages, **meta)
