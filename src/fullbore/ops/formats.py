"""How weights are stored, and the arithmetic between formats.

``fp8_block`` is the published format: e4m3 values and one float32 factor per 128 x 128 block, named
``weight_scale_inv`` in the checkpoint although it multiplies (config: ``quantization_config``).

``int8`` and ``int4`` are made of it at load, for a smaller or faster model: whole numbers and one factor for
each row and group of inputs, such that the largest value of a group is the largest number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.errors import IntegrityError

BLOCK = 128
E4M3_MAX = 448.0
PLAIN = {"bf16": torch.bfloat16, "fp32": torch.float32}  # formats without factors


@dataclass(frozen=True)
class Weight:
    """A matrix as stored. ``data``: [out, in] in float32, bfloat16 or float8_e4m3fn.

    ``scale``: [ceil(out / 128), ceil(in / 128)] float32 for ``fp8_block``; [out, ceil(in / group)] bfloat16
    for integers, whose ``data`` is int8 and ``integer`` says which they are; else None.
    """

    data: Tensor
    scale: Tensor | None = None
    integer: "Integer | None" = None

    @property
    def format(self) -> str:
        """One of fp8_block, bf16, fp32, int8, int4_g32, int4_g128."""
        if self.integer is not None:
            return self.integer.format
        if self.scale is not None:
            return "fp8_block"
        return next(format for format, dtype in PLAIN.items() if dtype == self.data.dtype)

    @property
    def bytes(self) -> int:
        """Factors included; numbers of 4 bits count half a byte, though ``data`` holds one in each byte."""
        out, in_ = self.data.shape
        return matrix_bytes(out, in_, self.format)

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        """The matrix itself, [out, in] in ``dtype``."""
        if self.scale is None:
            return self.data.to(dtype)
        if self.integer is not None:
            values = _groups(self.data.float(), self.integer.group).mul_(self.scale.float()[..., None])
            return values.flatten(1)[:, : self.data.shape[1]].to(dtype)
        return dequantise_fp8_block(self.data, self.scale, dtype)


@dataclass(frozen=True)
class Integer:
    """Numbers of ``bits`` bits, in [-largest, largest], with one factor for ``group`` inputs of a row."""

    format: str
    bits: int
    group: int

    @property
    def largest(self) -> int:
        """127 or 7. Its negative is the smallest: one more to one side would buy little and bend zero."""
        return (1 << (self.bits - 1)) - 1

    def quantise(self, matrix: Tensor) -> Weight:
        """[out, in] in any float type -> the nearest numbers to factors rounded to bfloat16."""
        rows, columns = matrix.shape
        values = _groups(matrix.float(), self.group)
        scale = (values.abs().amax(dim=2) / self.largest).to(torch.bfloat16)
        factor = torch.where(scale > 0, scale.float(), 1.0)
        numbers = (values / factor[..., None]).round_().clamp_(-self.largest, self.largest)
        data = numbers.to(torch.int8).view(rows, -1)[:, :columns].contiguous()
        return Weight(data, scale, self)


INTEGERS = {
    each.format: each
    for each in (Integer("int8", 8, BLOCK), Integer("int4_g32", 4, 32), Integer("int4_g128", 4, BLOCK))
}


def _groups(matrix: Tensor, group: int) -> Tensor:
    """[out, in] -> [out, ceil(in / group), group], the last filled up with zeros; a view where that does."""
    missing = -matrix.shape[1] % group
    return (F.pad(matrix, (0, missing)) if missing else matrix).view(len(matrix), -1, group)


def outline(shape: Sequence[int], format: str) -> Weight:
    """A matrix [out, in] in ``format`` that has no values (torch's meta device)."""
    out, in_ = shape
    integer = INTEGERS.get(format)
    if integer is not None:
        scale = torch.empty(out, -(-in_ // integer.group), dtype=torch.bfloat16, device="meta")
        return Weight(torch.empty(out, in_, dtype=torch.int8, device="meta"), scale, integer)
    if format == "fp8_block":
        scale = torch.empty(-(-out // BLOCK), -(-in_ // BLOCK), device="meta")
        return Weight(torch.empty(out, in_, dtype=torch.float8_e4m3fn, device="meta"), scale)
    return Weight(torch.empty(out, in_, dtype=PLAIN[format], device="meta"))


def decode_e4m3(codes: Tensor) -> Tensor:
    """Values of e4m3fn as float32, 256 times too small: the bits of float16, moved, are those of e4m3 with
    another bias of the exponent. Ten times faster than torch's own cast on a CPU, and exact.
    """
    wide = codes.view(torch.int8).to(torch.int16)  # the sign is copied to the bits above
    values = wide.bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16).to(torch.float32)
    sizes = codes.view(torch.uint8).bitwise_and(0x7F)
    # One pattern means another thing: the largest, which is no number.
    return values.masked_fill_(sizes == 0x7F, torch.nan) if int(sizes.max()) == 0x7F else values


def dequantise_fp8_block(data: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[out, in] e4m3 and [ceil(out / 128), ceil(in / 128)] factors -> [out, in] in ``dtype``.

    Works through 128 rows at a time, so that beside the result only one row of blocks is held in float32.
    IntegrityError: the factors are of another shape (too few would leave rows of the result unwritten).
    """
    rows, columns = data.shape
    expected = (-(-rows // BLOCK), -(-columns // BLOCK))
    if tuple(scale.shape) != expected:
        raise IntegrityError(
            f"the scale of a {rows} x {columns} fp8_block matrix has shape {tuple(scale.shape)}, expected "
            f"{expected}: a factor for each block of {BLOCK} x {BLOCK}"
        )
    result = torch.empty(rows, columns, dtype=dtype, device=data.device)
    for block, factors in enumerate(scale):
        band = slice(block * BLOCK, min((block + 1) * BLOCK, rows))
        result[band] = decode_e4m3(data[band]).mul_((256 * factors).repeat_interleave(BLOCK)[:columns])
    return result


def quantise_fp8_block(matrix: Tensor) -> Weight:
    """[out, in] in any float type -> ``fp8_block``, each block scaled so that its largest value is 448."""
    rows, columns = matrix.shape
    down, across = -(-rows // BLOCK), -(-columns // BLOCK)
    padded = torch.zeros(down * BLOCK, across * BLOCK, dtype=torch.float32, device=matrix.device)
    padded[:rows, :columns] = matrix
    blocks = padded.view(down, BLOCK, across, BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)) / E4M3_MAX
    scale = torch.where(scale > 0, scale, 1.0)
    data = (blocks / scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns].contiguous()
    return Weight(data.to(torch.float8_e4m3fn), scale)


def matrix_bytes(out: int, in_: int, format: str) -> int:
    """Bytes of an [out, in] matrix, its factors included; integers of 4 bits are two to a byte."""
    if format in INTEGERS:
        integer = INTEGERS[format]
        return out * (-(-in_ * integer.bits // 8) + 2 * -(-in_ // integer.group))
    if format == "fp8_block":
        return out * in_ + 4 * -(-out // BLOCK) * -(-in_ // BLOCK)
    return out * in_ * PLAIN[format].itemsize


def value_bytes(dtype: str) -> int:
    """Bytes of one activation in float32 or bfloat16."""
    return {"float32": 4, "bfloat16": 2}[dtype]
