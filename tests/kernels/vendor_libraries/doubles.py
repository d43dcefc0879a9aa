"""Doubles of other people's libraries: they refuse what the real ones refuse, and compute in float32.

``scale``: what every result is multiplied with; a library that is wrong has another than 1.
"""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128


def ceil(number: int, of: int) -> int:
    return -(-number // of)


def decoded(data: Tensor, factors: Tensor) -> Tensor:
    """[..., out, in] times factors of its blocks; rows of 1 or of 128 outputs together."""
    rows = 1 if factors.shape[-2] == data.shape[-2] else BLOCK
    wide = factors.repeat_interleave(rows, -2)[..., : data.shape[-2], :]
    return data.float() * wide.repeat_interleave(BLOCK, -1)[..., : data.shape[-1]]


class Doubles:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.calls: list[str] = []

    def modules(self) -> dict[str, ModuleType]:
        """By the names that adapters import."""
        return {
            "deep_gemm": made("deep_gemm", fp8_gemm_nt=self.fp8_gemm_nt),
            "sgl_kernel": made("sgl_kernel", fp8_blockwise_scaled_mm=self.fp8_blockwise_scaled_mm),
            "flashinfer": made("flashinfer"),
            "flashinfer.fused_moe": made("flashinfer.fused_moe", cutlass_fused_moe=self.cutlass_fused_moe),
            "flash_mla": made(
                "flash_mla",
                get_mla_metadata=lambda *args: ("plan", None),
                flash_mla_with_kvcache=self.flash_mla_with_kvcache,
            ),
            "aiter": made(
                "aiter",
                gemm_a8w8_blockscale=self.gemm_a8w8_blockscale,
                ActivationType=SimpleNamespace(Silu="silu"),
                QuantType=SimpleNamespace(per_128x128="blocks"),
            ),
            "aiter.fused_moe": made("aiter.fused_moe", fused_moe=self.fused_moe),
            "aiter.ops": made("aiter.ops"),
            "aiter.ops.shuffle": made("aiter.ops.shuffle", shuffle_weight=self.shuffle_weight),
            "aiter.mla": made("aiter.mla", mla_decode_fwd=self.mla_decode_fwd),
        }

    # Products. codes: [tokens, in], data: [out, in].

    def product(self, codes: Tensor, factors: Tensor, data: Tensor, blocks: Tensor) -> Tensor:
        tokens, in_ = codes.shape
        assert codes.dtype == data.dtype == torch.float8_e4m3fn
        assert factors.dtype == blocks.dtype == torch.float32
        assert factors.shape == (tokens, ceil(in_, BLOCK))
        assert blocks.shape == (ceil(len(data), BLOCK), ceil(in_, BLOCK))
        y = decoded(codes, factors) @ decoded(data, blocks).T
        return (self.scale * y).to(torch.bfloat16)

    def scaled_mm(
        self,
        a: Tensor,
        b: Tensor,
        a_scale: Tensor,
        a_kind: Any,
        b_scale: Tensor,
        b_kind: Any,
        *,
        output_dtype: Any,
    ) -> Tensor:
        """torch's, by the checks of _scaled_block1x128_block128x128 in ScaledBlas.cpp."""
        self.calls.append("scaled_mm")
        kinds = F.ScalingType
        assert (a_kind, b_kind) == (kinds.BlockWise1x128, kinds.BlockWise128x128)
        assert output_dtype == torch.bfloat16
        (m, k), n = a.shape, b.shape[1]
        assert a.is_contiguous()
        assert b.t().is_contiguous()
        assert a_scale.stride(0) == 1
        assert a_scale.stride(1) == m or (a_scale.shape[1] == 1 and a_scale.stride(1) == 1)
        room = 4 * ceil(ceil(k, BLOCK), 4)
        assert b_scale.shape == (room, ceil(n, BLOCK))
        assert b_scale.stride() == (1, room)
        return self.product(a, a_scale, b.t(), b_scale.t()[:, : ceil(k, BLOCK)])

    def fp8_gemm_nt(self, a: Any, b: Any, d: Tensor, c: Any = None, disable_ue8m0_cast: bool = False) -> None:
        self.calls.append("fp8_gemm_nt")
        assert disable_ue8m0_cast
        assert all(each.is_contiguous() for each in (*a, *b, d))
        d.copy_(self.product(*a, *b))

    def fp8_blockwise_scaled_mm(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: Any
    ) -> Tensor:
        self.calls.append("fp8_blockwise_scaled_mm")
        assert dtype == torch.bfloat16
        assert a.is_contiguous()
        assert b.t().is_contiguous()
        assert a_scale.t().is_contiguous()
        assert b_scale.t().is_contiguous()
        assert b.shape[0] % BLOCK == b.shape[1] % BLOCK == 0
        return self.product(a, a_scale, b.t(), b_scale.t())

    def gemm_a8w8_blockscale(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: Any
    ) -> Tensor:
        self.calls.append("gemm_a8w8_blockscale")
        assert dtype == torch.bfloat16
        assert all(each.is_contiguous() for each in (a, b, a_scale, b_scale))
        return self.product(a, a_scale, b, b_scale)

    # Experts. first: [experts, 2 * inter, hidden], second: [experts, hidden, inter].

    def experts(
        self, x: Tensor, ids: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        assert ids.dtype == torch.int32
        assert scores.dtype == torch.float32
        assert ids.shape == scores.shape
        y = torch.zeros(x.shape)
        for slot in range(ids.shape[1]):
            at = ids[:, slot].long()
            inner = F.silu(torch.einsum("th,tih->ti", x.float(), gate[at])) * torch.einsum(
                "th,tih->ti", x.float(), up[at]
            )
            y += scores[:, slot, None] * torch.einsum("ti,thi->th", inner, down[at])
        return (self.scale * y).to(torch.bfloat16)

    def cutlass_fused_moe(
        self, x: Tensor, ids: Tensor, scores: Tensor, first: Tensor, second: Tensor, dtype: Any, *,
        quant_scales: list[Tensor], use_deepseek_fp8_block_scale: bool, output: Tensor,
    ) -> None:  # fmt: skip
        self.calls.append("cutlass_fused_moe")
        assert use_deepseek_fp8_block_scale
        assert x.dtype == dtype == torch.bfloat16
        up, gate = decoded(first, quant_scales[0]).chunk(2, dim=1)
        output.copy_(self.experts(x, ids, scores, gate, up, decoded(second, quant_scales[1])))

    def shuffle_weight(self, weight: Tensor, layout: tuple[int, int]) -> Tensor:
        """So that an adapter that forgets it is seen: columns the other way round."""
        assert layout == (16, 16)
        return weight.view(torch.uint8).flip(-1).contiguous().view(weight.dtype)

    def fused_moe(
        self, x: Tensor, first: Tensor, second: Tensor, scores: Tensor, ids: Tensor, *, activation: Any,
        quant_type: Any, w1_scale: Tensor, w2_scale: Tensor,
    ) -> Tensor:  # fmt: skip
        self.calls.append("fused_moe")
        assert (activation, quant_type) == ("silu", "blocks")
        first, second = (self.shuffle_weight(each, (16, 16)) for each in (first, second))
        gate, up = decoded(first, w1_scale).chunk(2, dim=1)
        return self.experts(x, ids, scores, gate, up, decoded(second, w2_scale))

    # Attention. q: [rows, heads, 576].

    def attend(self, q: Tensor, rows: list[Tensor], scale: float) -> Tensor:
        """``rows``: of the cache, that each query sees."""
        outputs = []
        for query, seen in zip(q.float(), rows, strict=True):
            weights = (query @ seen.float().T * scale).softmax(-1)
            outputs.append(weights @ seen.float()[:, :512])
        return (self.scale * torch.stack(outputs)).to(torch.bfloat16)

    def flash_mla_with_kvcache(
        self, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor, width: int, plan: Any, splits: Any,
        *, softmax_scale: float,
    ) -> tuple[Tensor, None]:  # fmt: skip
        self.calls.append("flash_mla_with_kvcache")
        assert q.shape[1:2] == (1,)
        assert q.shape[3] == 576
        assert cache.shape[1:] == (64, 1, 576)
        assert (width, plan) == (512, "plan")
        assert table.dtype == contexts.dtype == torch.int32
        seen = [cache[t.long()].flatten(0, 2)[:n] for t, n in zip(table, contexts.tolist(), strict=True)]
        return self.attend(q[:, 0], seen, softmax_scale)[:, None], None

    def mla_decode_fwd(
        self, q: Tensor, cache: Tensor, outputs: Tensor, starts: Tensor, ends: Tensor, slots: Tensor,
        last: Tensor, most: int, *, sm_scale: float,
    ) -> None:  # fmt: skip
        self.calls.append("mla_decode_fwd")
        assert cache.shape[1:] == (1, 1, 576)
        assert starts.tolist() == list(range(len(q) + 1))
        assert most == 1
        assert set(last.tolist()) == {1}
        assert all(each.dtype == torch.int32 for each in (starts, ends, slots, last))
        bounds = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        outputs.copy_(self.attend(q, [cache[slots[a:b].long(), 0, 0] for a, b in bounds], sm_scale))


def made(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


def forget_adapters() -> None:
    """So that the next import finds other libraries."""
    for name in [name for name in sys.modules if name.startswith("fullbore.kernels.vendor.")]:
        if not name.endswith(".kernel"):
            del sys.modules[name]
