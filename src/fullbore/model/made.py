"""Random weights made where they are needed, without a checkpoint: for what depends on shapes, not on values.

Values come from two pools on the device, one of FP8 numbers and one of bfloat16 ones, both normally
distributed. A matrix is a stretch of its pool from a place of its own, repeated where it is larger, with a
spread that keeps activations near 1; so nothing is drawn for it, nothing crosses from host to device, and
several matrices may share numbers. What is drawn once for each FP8 matrix are its factors.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fullbore.hardware.device import Device
from fullbore.model.config import ModelConfig
from fullbore.model.random_weights import BIAS_STD, NORM_STD, e4m3_quantiles, normal_quantiles, spread_of
from fullbore.model.specs import TensorSpec
from fullbore.ops.formats import E4M3_MAX, Weight, outline

POOL_BYTES = 64 << 20
_STEP = 4096  # bytes that stretches begin at multiples of, as aligned as any allocation
_FACTORS = 4093  # drawn for all matrices; a prime, so that rows of factors are not alike


class Made:
    """Tensors of ``specs`` (those that one rank holds, see ``share.held_specs``)."""

    def __init__(self, specs: Mapping[str, TensorSpec], config: ModelConfig, device: Device) -> None:
        self._specs, self._config, self._place = specs, config, device.place
        table, self._widest = e4m3_quantiles()
        bits = np.random.SFC64(20241226).random_raw(POOL_BYTES // 8).tobytes()
        codes = torch.frombuffer(bytearray(bits.translate(table)), dtype=torch.uint8)
        words = torch.from_numpy(normal_quantiles()[np.frombuffer(bits, np.uint16)])
        self._codes, self._normal = codes.to(self._place), words.to(self._place, torch.bfloat16)
        factors = torch.from_numpy(np.exp2(np.frombuffer(bits, np.uint16)[:_FACTORS] / 65536.0 - 0.5))
        self._factors = factors.to(self._place, torch.float32)

    def outline(self, name: str) -> Weight:
        spec = self._specs[name]
        fp8 = spec.kind == "linear" and self._config.quantised
        return outline(spec.shape, "fp8_block" if fp8 else "bf16")

    def weight(self, name: str) -> Weight:
        """A view of a pool where it is large enough."""
        spec, std = self._specs[name], spread_of(self._config, self._specs[name])
        if spec.kind != "linear" or not self._config.quantised:
            return Weight((self._stretch(self._normal, spec.elements, name) * std).view(spec.shape))
        data = self._stretch(self._codes, spec.elements, name).view(torch.float8_e4m3fn)
        rows, columns = spec.scale_shape
        start = _number(name) % _FACTORS
        scale = _repeated(self._factors, start, rows * columns) * (std * self._widest / E4M3_MAX)
        return Weight(data.view(spec.shape), scale.view(rows, columns))

    def tensor(self, name: str) -> Tensor:
        """A norm or a bias; the router's gate is asked for as a tensor too."""
        spec = self._specs[name]
        if spec.kind not in ("norm", "bias"):
            return self.weight(name).data
        mean, std = (1.0, NORM_STD) if spec.kind == "norm" else (0.0, BIAS_STD)
        values = mean + std * self._stretch(self._normal, spec.elements, name).float()
        return values if spec.kind == "bias" else values.to(torch.bfloat16)

    def release(self, name: str) -> None:
        """Nothing was read."""

    @cached_property
    def total_bytes(self) -> int:
        """As they are stored."""
        kept = [spec for spec in self._specs.values() if not spec.optional]
        vectors = sum(
            spec.elements * (4 if spec.kind == "bias" else 2) for spec in kept if len(spec.shape) == 1
        )
        return vectors + sum(self.outline(spec.name).bytes for spec in kept if len(spec.shape) == 2)

    def _stretch(self, pool: Tensor, count: int, name: str) -> Tensor:
        step = _STEP // pool.element_size()
        return _repeated(pool, _number(name) % (len(pool) // step) * step, count)


def _repeated(pool: Tensor, start: int, count: int) -> Tensor:
    """``count`` elements from ``start`` on, over and over; a view where none comes twice."""
    if start + count <= len(pool):
        return pool[start : start + count]
    if count <= len(pool):
        return pool[:count]
    made, at = pool.new_empty(count), 0
    while at < count:
        piece = pool[start : start + count - at]
        made[at : at + len(piece)] = piece
        at, start = at + len(piece), 0
    return made


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest())
