"""Angles of the rotary embedding, plain or stretched by YaRN (arXiv 2309.00071, section 3)."""

import math

import torch
from torch import Tensor

from fullbore.model.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, dim: int) -> Tensor:
    """[dim / 2] float32. Under YaRN slow dimensions are stretched by ``factor``, fast ones kept, and
    those between the dimensions that turn ``beta_fast`` and ``beta_slow`` times are blended.
    """
    plain = 1.0 / rope.theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if rope.factor <= 1.0:
        return plain

    def dimension_turning(times: float) -> float:
        """The (fractional) dimension that turns so often within the original context."""
        wavelength = rope.original_max_position_embeddings / (times * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension_turning(rope.beta_fast)), 0)
    high = min(math.ceil(dimension_turning(rope.beta_slow)), dim - 1)
    width = high - low if high != low else 0.001
    stretched = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return plain / rope.factor * stretched + plain * (1 - stretched)


class Rotary:
    """cos and sin for any positions. Computed when asked for: a table for 163840 positions would be 80 MB."""

    def __init__(self, rope: RopeConfig, dim: int, place: str = "cpu") -> None:
        self.frequencies = inverse_frequencies(rope, dim).to(place)
        self.scale = rope.cos_sin_scale

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: [tokens] -> cos, sin: [tokens, dim / 2] float32."""
        angles = positions[:, None].float() * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.scale == 1.0 else (cos * self.scale, sin * self.scale)
