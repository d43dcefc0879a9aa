"""Attention to the latents themselves: ``kv_b`` goes into queries and outputs, and a library does what is
between (absorption; DeepSeek-V2 report, section 2.1.2)."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.vendor.kernel import VendorKernel, place
from fullbore.ops.attention import Heads
from fullbore.ops.formats import Weight

LATENT, ROPE = 512, 64  # of a row of the cache, for which such libraries are made


class Absorbed(NamedTuple):
    """``keys``: [heads, nope, latent]; ``values``: [heads, latent, v]."""

    keys: Tensor
    values: Tensor
    heads: Heads


class AbsorbedDecode(VendorKernel):
    """``attend`` is the library's part."""

    operator = "mla_decode"
    layout = "vendor_absorbed"
    formats = ("fp8_block", "bf16")
    rounds = ""

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        reasons = []
        if (shape["latent"], shape["rope"]) != (LATENT, ROPE):
            row = f"{shape['latent']} + {shape['rope']}"
            reasons.append(f"takes rows of {LATENT} + {ROPE} values in the cache, not {row}")
        if shape.get("kv_bits"):
            reasons.append("takes a cache in bfloat16")
        return reasons

    def pack(self, kv_b: Weight, heads: Heads) -> Absorbed:
        matrix = kv_b.dequantise(torch.bfloat16).to(place())
        parts = matrix.view(heads.count, heads.nope + heads.v, heads.latent)
        return Absorbed(parts[:, : heads.nope].contiguous(), parts[:, heads.nope :].mT.contiguous(), heads)

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor) -> Tensor:
        """As of ``ops.attention``."""
        heads = packed.heads
        heads.row.check(cache, q.dtype)
        latent = torch.bmm(q[..., : heads.nope].transpose(0, 1), packed.keys).transpose(0, 1)
        queries = torch.cat([latent, q[..., heads.nope :]], dim=-1)  # [rows, heads, latent + rope]
        outputs = self.attend(queries, cache, table, contexts, heads.softmax_scale)
        return torch.bmm(outputs.transpose(0, 1), packed.values).transpose(0, 1).reshape(len(q), -1)

    @abstractmethod
    def attend(self, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor, scale: float) -> Tensor:
        """q: [rows, heads, latent + rope]; cache: [pages, page_size, latent + rope] -> [rows, heads,
        latent]."""
