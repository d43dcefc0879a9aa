"""Norms and ``rope``, computed in float32 and rounded once; strided inputs are read where they lie."""

from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.cpu.kernel import CpuKernel
from fullbore.kernels.cpu.native import Native


class Norm(NamedTuple):
    """``weight``: [width] float32."""

    weight: Tensor
    width: int
    eps: float


class _Norm(CpuKernel):
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run, self._call = self.struct_function(f"fb_{self.operator}", "PqPqPqPfqqPP")

    def pack(self, weight: Tensor, eps: float) -> Norm:
        return Norm(weight.to(torch.float32, copy=True).contiguous(), len(weight), eps)

    def rows(self, packed: Norm, x: Tensor) -> tuple[Tensor, int, int]:
        """``x`` with the values of a row side by side, the step from row to row, and how many rows."""
        tokens, width = x.shape
        if x.dtype is not self.dtype or width != packed.width:
            expected = f"{self.dtype} [tokens, {packed.width}]"
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {expected}")
        row, value = x.stride()
        return (x, row, tokens) if value == 1 else (x.contiguous(), width, tokens)


class CpuRmsNorm(_Norm):
    operator = "rms_norm"

    def run(self, packed: Norm, x: Tensor) -> Tensor:
        """x: [tokens, width] -> [tokens, width]."""
        weight, width, eps = packed
        x, row, tokens = self.rows(packed, x)
        out = x.new_empty(tokens, width)
        norm = weight.data_ptr(), eps, tokens, width, 0, out.data_ptr()
        self._run(self._call(self.pool_address, self.is_bf16, x.data_ptr(), row, 0, 0, *norm))
        return out


class CpuAddRmsNorm(_Norm):
    operator = "add_rms_norm"

    def run(self, packed: Norm, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, y: [tokens, width] -> x + y and its norm, both [tokens, width]."""
        weight, width, eps = packed
        (x, x_row, tokens), (y, y_row, others) = self.rows(packed, x), self.rows(packed, y)
        if tokens != others:
            raise ValueError(f"x has {tokens} rows and y {others}; expected as many")
        total, out = x.new_empty(tokens, width), x.new_empty(tokens, width)
        at = x.data_ptr(), x_row, y.data_ptr(), y_row, weight.data_ptr(), eps, tokens, width
        self._run(self._call(self.pool_address, self.is_bf16, *at, total.data_ptr(), out.data_ptr()))
        return total, out


class CpuRope(CpuKernel):
    operator = "rope"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run, self._call = self.struct_function("fb_rope", "PqPqqPPqqqqP")

    def run(self, packed: None, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [tokens, heads, width]; cos, sin: [tokens, dim / 2] float32 -> [tokens, heads, width]."""
        (tokens, heads, width), half = x.shape, cos.shape[1]
        if x.dtype is not self.dtype or 2 * half > width:
            expected = f"{self.dtype} [tokens, heads, at least {2 * half}]"
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {expected}")
        cos, sin = angles(cos, sin, tokens)
        token, head, value = x.stride()
        if value != 1:
            x, token, head = x.contiguous(), heads * width, width
        out = x.new_empty(tokens, heads, width)
        at = x.data_ptr(), token, head, cos.data_ptr(), sin.data_ptr(), tokens, heads, width, half
        self._run(self._call(self.pool_address, self.is_bf16, *at, out.data_ptr()))
        return out


def angles(cos: Tensor, sin: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Both with a dense row for each token."""
    if cos.shape[0] != tokens or cos.shape != sin.shape or not (cos.dtype is sin.dtype is torch.float32):
        given = ", ".join(f"{each.dtype} {list(each.shape)}" for each in (cos, sin))
        raise ValueError(f"cos and sin are {given}; expected both torch.float32 [{tokens}, dim / 2]")
    return cos.contiguous(), sin.contiguous()
