"""A checkpoint's matrices in another format, made one at a time as they are asked for, and what that lost.

The loss of a matrix W that became V is the relative L2 error ||V - W|| / ||W||, both as float32 (an FP8
matrix is what it decodes to). The mean over matrices is weighted by their numbers of elements.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fullbore.errors import CheckpointError
from fullbore.model.specs import TensorSpec
from fullbore.model.weights import Recipe
from fullbore.model.workload import Source
from fullbore.ops.formats import BLOCK, INTEGERS, Weight, outline, quantise_fp8_block

BAND = 1 << 18  # values at a time: what is worked on stays in the cache, and the rest of memory free


@dataclass(frozen=True)
class Loss:
    """Of one matrix. ``relative``: ||V - W|| / ||W||."""

    elements: int
    relative: float


def convert(weight: Weight, format: str) -> tuple[Weight, float]:
    """``weight`` in ``format``, and its loss (nan where it holds a value that is no number)."""
    bands, lost, whole = [], 0.0, 0.0
    for values in _bands(weight):
        band = _QUANTISE[format](values)
        error = band.dequantise(torch.float32).sub_(values).flatten()
        lost += float(error.dot(error))
        whole += float(values.flatten().dot(values.flatten()))
        bands.append(band)
    data = torch.cat([band.data for band in bands])
    scales = [band.scale for band in bands if band.scale is not None]
    made = Weight(data, torch.cat(scales) if scales else None, INTEGERS.get(format))
    return made, math.sqrt(lost / whole) if whole else lost


def _bands(weight: Weight) -> Iterator[Tensor]:
    """The matrix in float32 by bands of whole blocks of rows: each [rows, in]."""
    rows, columns = weight.data.shape
    step = BLOCK * max(1, BAND // (BLOCK * max(1, columns)))
    for first in range(0, rows, step):
        scale = weight.scale
        if scale is not None:  # FP8: a row of factors for each block of rows
            scale = scale[first // BLOCK : (first + step) // BLOCK]
        yield Weight(weight.data[first : first + step], scale).dequantise(torch.float32)


_QUANTISE: Mapping[str, Callable[[Tensor], Weight]] = {
    "bf16": lambda values: Weight(values.to(torch.bfloat16)),
    "fp8_block": quantise_fp8_block,
    **{format: integer.quantise for format, integer in INTEGERS.items()},
}


class Converted:
    """``source`` with its matrices as ``recipe`` wants them. ``losses``: of those converted so far."""

    def __init__(self, source: Source, specs: Mapping[str, TensorSpec], recipe: Recipe) -> None:
        self.recipe = recipe
        self.losses: dict[str, Loss] = {}
        self._source, self._specs = source, specs
        self._matrices = [name for name, spec in specs.items() if len(spec.shape) == 2 and not spec.optional]
        self.tensor, self.release = source.tensor, source.release

    def outline(self, name: str) -> Weight:
        """As ``weight``, without values."""
        stored, format = self._source.outline(name), self._format(name)
        return outline(stored.data.shape, format) if format not in ("", stored.format) else stored

    def weight(self, name: str) -> Weight:
        """The matrix, converted if need be; CheckpointError where it holds what no format can express."""
        stored, format = self._source.weight(name), self._format(name)
        if format in ("", stored.format):
            return stored
        made, loss = convert(stored, format)
        if not math.isfinite(loss):
            raise CheckpointError(
                f"tensor {name} cannot be converted to {format}: it holds a value that is not finite, or "
                "above 1e15; the file is damaged or was badly converted (see: fullbore inspect --verify)"
            )
        self.losses[name] = Loss(made.data.numel(), loss)
        return made

    @cached_property
    def total_bytes(self) -> int:
        """Of all tensors once they are converted."""
        stored = sum(self._source.outline(name).bytes for name in self._matrices)
        return self._source.total_bytes - stored + sum(self.formats.values())

    @cached_property
    def formats(self) -> Mapping[str, int]:
        """Bytes of the matrices once they are converted, by format."""
        sizes: Counter[str] = Counter()
        for weight in map(self.outline, self._matrices):
            sizes[weight.format] += weight.bytes
        return sizes

    @property
    def format(self) -> str:
        """The one that most layers multiply by; embeddings do not count, which a small model mostly is."""
        linears = (name for name in self._matrices if self._specs[name].kind == "linear")
        (format, _), *_ = Counter(self.outline(name).format for name in linears).most_common(1)
        return format

    def summary(self) -> str:
        """What was lost, in one line; "" where nothing was converted."""
        if not self.losses:
            return ""
        elements = sum(loss.elements for loss in self.losses.values())
        mean = sum(loss.relative * loss.elements for loss in self.losses.values()) / elements
        worst = max(self.losses, key=lambda name: self.losses[name].relative)
        return (
            f"weights as {self.recipe.name}: {mean:.3%} mean relative error against the checkpoint, "
            f"worst {self.losses[worst].relative:.3%} ({worst})"
        )

    def _format(self, name: str) -> str:
        return self.recipe.format(self._specs[name])
