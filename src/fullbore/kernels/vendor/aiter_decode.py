"""AITER's decode attention for CDNA, as of 0.1 in 2026-09 (aiter/mla.py; its use in vllm/_aiter_ops.py): the
cache is seen as pages of one token, so that any page size will do."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.vendor.absorbed import LATENT, AbsorbedDecode
from fullbore.kernels.vendor.kernel import library

_mla = library("aiter.mla", "AITER", "pip install amd-aiter, or build github.com/ROCm/aiter")
_HEADS = (16, 128)


class AiterMlaDecode(AbsorbedDecode):
    name = "aiter"
    architectures = ("gfx942", "gfx950")

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        reasons = super().unfit(shape)
        if shape["heads"] not in _HEADS:
            reasons.append(f"takes {' or '.join(map(str, _HEADS))} heads, not {shape['heads']}")
        return reasons

    def attend(self, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor, scale: float) -> Tensor:
        rows, heads, width = q.shape
        outputs = q.new_empty(rows, heads, LATENT)
        ends = F.pad(contexts.cumsum(0), (1, 0)).int()
        starts = torch.arange(rows + 1, dtype=torch.int32, device=q.device)
        _mla.mla_decode_fwd(
            q, cache.view(-1, 1, 1, width), outputs, starts, ends,
            slots(table, contexts, ends, cache.shape[1]), torch.ones_like(contexts), 1, sm_scale=scale,
        )  # fmt: skip
        return outputs


def slots(table: Tensor, contexts: Tensor, ends: Tensor, page: int) -> Tensor:
    """table: [rows, max_pages]; ends: [rows + 1] -> [rows * max_pages * page] int32: where each row's tokens
    lie in the cache, one row after the other. Made without a look at a value: there is room for the most."""
    most = table.shape[1] * page
    at = torch.arange(most, device=table.device)
    where = table[:, at // page] * page + at % page  # [rows, most]
    places = torch.where(at < contexts[:, None], ends[:-1, None] + at, len(table) * most)
    found = table.new_zeros(
        len(table) * most + 1, dtype=torch.int32
    )  # the last takes what is beyond a context
    return found.scatter_(0, places.flatten().long(), where.flatten().int())[:-1]
