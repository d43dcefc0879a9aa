"""How random inputs are drawn: what the ``draw`` functions of all operators share."""

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Tolerance
from fullbore.ops.formats import INTEGERS, Weight, quantise_fp8_block

WEIGHT_FORMATS = ("fp8_block", "bf16", "fp32", *INTEGERS)

ARITHMETIC = (
    {
        "float32": Tolerance(
            2e-5, "sums of some thousand float32 products; 2^-24 each, errors partly cancel"
        ),
        "bfloat16": Tolerance(
            2e-2, "8 bits of mantissa: 2^-9 for each input, intermediate and output rounding"
        ),
    }
    | {
        f"{format}, bfloat16": Tolerance(4e-2, "activations too are rounded to 8 bits, by the largest of 128")
        for format in INTEGERS
    }
    | {"e4m3": Tolerance(1e-1, "activations too are rounded to 4 significant bits: 2^-5.3 each on average")}
)


def draw_weight(out: int, in_: int, format: str, generator: Generator) -> Weight:
    """[out, in] with unit gain (values of about in ** -0.5), in one of ``WEIGHT_FORMATS``."""
    matrix = torch.randn(out, in_, generator=generator) * in_**-0.5
    if format == "fp8_block":
        return quantise_fp8_block(matrix)
    if format in INTEGERS:
        return INTEGERS[format].quantise(matrix)
    return Weight(matrix.to({"bf16": torch.bfloat16, "fp32": torch.float32}[format]))


def draw_rows(tokens: int, width: int, case: str, dtype: torch.dtype, generator: Generator) -> Tensor:
    """[tokens, width] activations. ``extreme_scales``: rows between 1e-4 and 1e4; ``one_token``: one row."""
    if case == "one_token":
        tokens = 1
    rows = torch.randn(tokens, width, generator=generator)
    if case == "extreme_scales":
        rows *= 10.0 ** (8 * torch.rand(tokens, 1, generator=generator) - 4)
    return rows.to(dtype)
