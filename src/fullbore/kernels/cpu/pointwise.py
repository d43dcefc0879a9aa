"""``rms_norm`` and ``rope``, computed in float32 and rounded once; strided inputs are read where they lie."""

from ctypes import c_float

import torch
from torch import Tensor

from fullbore.kernels.cpu.kernel import CpuKernel, I, P
from fullbore.kernels.cpu.native import Native

Norm = tuple[Tensor, float]


class CpuRmsNorm(CpuKernel):
    operator = "rms_norm"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run = self.function("fb_rms_norm", P, I, P, I, P, c_float, I, I, P)

    def pack(self, weight: Tensor, eps: float) -> Norm:
        return weight.to(torch.float32, copy=True).contiguous(), eps

    def run(self, packed: Norm, x: Tensor) -> Tensor:
        """x: [tokens, width] -> [tokens, width]."""
        weight, eps = packed
        tokens, width = x.shape
        if x.dtype is not self.dtype or width != weight.shape[0]:
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {self.dtype} [tokens, {len(weight)}]")
        if x.stride(1) != 1:
            x = x.contiguous()
        out = torch.empty(tokens, width, dtype=self.dtype)
        at = x.data_ptr(), x.stride(0), weight.data_ptr(), eps
        self._run(self.pool, self.is_bf16, *at, tokens, width, out.data_ptr())
        return out


class CpuRope(CpuKernel):
    operator = "rope"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run = self.function("fb_rope", P, I, P, I, I, P, P, I, I, I, I, P)

    def run(self, packed: None, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [tokens, heads, width]; cos, sin: [tokens, dim / 2] float32 -> [tokens, heads, width]."""
        (tokens, heads, width), half = x.shape, cos.shape[-1]
        if x.dtype is not self.dtype or 2 * half > width:
            expected = f"{self.dtype} [tokens, heads, at least {2 * half}]"
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {expected}")
        for angles in (cos, sin):
            if angles.shape != (tokens, half) or angles.dtype is not torch.float32:
                expected = f"torch.float32 [{tokens}, {half}]"
                raise ValueError(f"cos or sin is {angles.dtype} {list(angles.shape)}, expected {expected}")
        if x.stride(2) != 1:
            x = x.contiguous()
        cos, sin = cos.contiguous(), sin.contiguous()
        out = torch.empty(tokens, heads, width, dtype=self.dtype)
        at = x.data_ptr(), x.stride(0), x.stride(1), cos.data_ptr(), sin.data_ptr()
        self._run(self.pool, self.is_bf16, *at, tokens, heads, width, half, out.data_ptr())
        return out
