"""How a token is kept in a layer's paged cache: one row, shared by all heads, of its latent and its key.

The normalised latent (kv_lora_rank values) comes first, then the rotated key (qk_rope_head_dim values). Rows
are in the compute type, in bfloat16, or in FP8 as published caches for this attention lay it out: e4m3
latents, one float32 factor for each 128 of them, and the key in bfloat16. At 512 + 64 that is 656 bytes
instead of bfloat16's 1152.

Factors are powers of two. That costs e4m3 nothing (its steps are relative), makes a decoded latent exact in
bfloat16, so that no kernel adds an error of its own, and lets a row that is decoded and written again keep
its values. e4m3 has no infinity: where a group holds a value that is not finite its factor is nan, and with
it the whole group, so that the fault shows in every query that sees the token.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.ops.contract import DTYPES, Shape
from fullbore.ops.formats import decode_e4m3

GROUP = 128  # latents of one factor
LEAST_POWER = -100  # of a factor: what it multiplies stays clear of the smallest numbers of bfloat16


@dataclass(frozen=True)
class CacheRow:
    """``latent``, ``rope``: values of each. ``bits`` of a latent: 8 in FP8, 16 in bfloat16, 0 as computed."""

    latent: int
    rope: int
    bits: int = 0

    @property
    def sizes(self) -> Shape:
        """As part of a job's shape: ``kv_bits`` where rows are not of the compute type."""
        return {"latent": self.latent, "rope": self.rope} | ({"kv_bits": self.bits} if self.bits else {})

    @staticmethod
    def of(shape: Shape) -> "CacheRow":
        """The row of a shape that has these sizes."""
        return CacheRow(shape["latent"], shape["rope"], shape.get("kv_bits", 0))

    @property
    def groups(self) -> int:
        """Factors of a row in FP8."""
        return -(-self.latent // GROUP)

    @property
    def width(self) -> int:
        """Elements of a row: values, or bytes in FP8."""
        return self.latent + (4 * self.groups + 2 * self.rope if self.bits == 8 else self.rope)

    def type(self, dtype: torch.dtype) -> torch.dtype:
        """Of a row's elements, where activations are of ``dtype``."""
        return {0: dtype, 8: torch.uint8, 16: torch.bfloat16}[self.bits]

    def bytes(self, dtype: str) -> int:
        """Of one token's row in one layer, computing in ``dtype``."""
        return self.width * self.type(DTYPES[dtype]).itemsize

    def empty(self, pages: int, page_size: int, dtype: torch.dtype, place: str = "cpu") -> Tensor:
        """[pages, page_size, width], not filled: no kernel looks at a row that was not written, and to touch
        gigabytes takes seconds."""
        return torch.empty(pages, page_size, self.width, dtype=self.type(dtype), device=place)

    def encode(self, latent: Tensor, rope: Tensor) -> Tensor:
        """latent: [tokens, latent]; rope: [tokens, rope] -> [tokens, width], each row by itself."""
        if self.bits != 8:
            return torch.cat([latent, rope], dim=-1).to(self.type(latent.dtype))
        padded = F.pad(latent.float(), (0, self.groups * GROUP - self.latent))
        values = padded.view(-1, self.groups, GROUP)
        factors = _factors(values.abs().amax(-1))  # [tokens, groups]
        codes = (values / factors[..., None]).to(torch.float8_e4m3fn).flatten(1)[:, : self.latent]
        parts = codes, factors, rope.to(torch.bfloat16)
        return torch.cat([part.view(torch.uint8) for part in parts], dim=-1)

    def rounding(self, values: Tensor) -> Tensor:
        """values: [..., latent + rope] float32 -> the most by which ``encode`` may change each of them."""
        if self.bits != 8:
            return values.abs() * (2**-8 if self.bits else 0)
        latent, rope = torch.split(values.abs(), [self.latent, self.rope], dim=-1)
        padded = F.pad(latent, (0, self.groups * GROUP - self.latent))
        groups = padded.reshape(*latent.shape[:-1], self.groups, GROUP)
        factors = _factors(groups.amax(-1)).repeat_interleave(GROUP, -1)[..., : self.latent]
        # Half a step: of a value's own magnitude, or of e4m3's subnormals, which lie 2^-9 apart.
        return torch.cat([torch.maximum(latent * 2**-4, factors * 2**-10), rope * 2**-8], dim=-1)

    def check(self, cache: Tensor, dtype: torch.dtype) -> None:
        """TypeError or ValueError where ``cache`` has not such rows; ``dtype``: of the activations."""
        if cache.dtype is not self.type(dtype):
            raise TypeError(f"the cache is {cache.dtype}, expected {self.type(dtype)}")
        if cache.shape[2] != self.width or not cache.is_contiguous():
            expected = f"[pages, page_size, {self.width}], contiguous"
            raise ValueError(f"the cache has shape {list(cache.shape)}, expected {expected}")

    def decode(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """rows: [..., width] -> [..., latent + rope] in ``dtype``; exact in float32 and in bfloat16."""
        if self.bits != 8:
            return rows.to(dtype)
        sizes = [self.latent, 4 * self.groups, 2 * self.rope]
        codes, factors, rope = torch.split(rows, sizes, dim=-1)
        factor = _viewed(factors, torch.float32).repeat_interleave(GROUP, -1)[..., : self.latent]
        latent = decode_e4m3(codes).mul_(256).mul_(factor)  # 256 times the largest factor would be infinite
        return torch.cat([latent.to(dtype), _viewed(rope, torch.bfloat16).to(dtype)], dim=-1)


def _factors(largest: Tensor) -> Tensor:
    """The least power of two that brings a group's largest value within e4m3's 448 = 7/8 * 2^9."""
    mantissa, exponent = torch.frexp(largest)  # 1/2 <= mantissa < 1
    power = (exponent - 9 + (mantissa > 7 / 8)).clamp_min(LEAST_POWER)
    factors = ((power + 127) << 23).view(torch.float32)
    return torch.where(largest.isfinite(), factors, float("nan"))


def _viewed(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as other values; copied, since within a row they lie at no particular boundary."""
    return part.clone(memory_format=torch.contiguous_format).view(dtype)
