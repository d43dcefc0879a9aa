"""The order in which tiles add, against Intel's pseudo-code: emulated, and real where a CPU has them."""

import pytest
import torch
from every_kernel import EMULATED_AMX, native_of, panel_isas
from torch import Generator, Tensor

from fullbore.kernels.cpu.build import AMX, Isa
from fullbore.kernels.cpu.linear import CpuLinear
from fullbore.ops.formats import Weight

WITH_TILES = [isa for isa in panel_isas() if isa in (AMX, EMULATED_AMX)]
pytestmark = pytest.mark.skipif(not WITH_TILES, reason="no tiles, and no compiler to emulate them")

TILE, BLOCK = 32, 128  # inputs


def summed(x: Tensor, weight: Tensor) -> Tensor:
    """x: [rows, in], weight: [out, in], both bfloat16 -> float32 [rows, out], rounded as tiles are.

    A product of two bfloat16 is exact in float32, so that a fused multiply-add is an addition.
    """
    x, weight = x.float(), weight.float()
    total = torch.zeros(len(x), len(weight))
    for block in range(0, x.shape[1], BLOCK):
        sums = torch.zeros_like(total)
        for tile in range(block, min(block + BLOCK, x.shape[1]), TILE):
            even, odd = torch.zeros_like(total), torch.zeros_like(total)
            for k in range(tile, tile + TILE, 2):
                even += x[:, k, None] * weight[:, k]
                odd += x[:, k + 1, None] * weight[:, k + 1]
            sums += even + odd
        total += sums
    return total


def uneven(rows: int, inputs: int, g: Generator) -> Tensor:
    """Magnitudes so far apart that sums in another order are other numbers; nothing near a denormal."""
    return (
        torch.randn(rows, inputs, generator=g) * 2.0 ** torch.randint(-9, 9, (rows, inputs), generator=g)
    ).bfloat16()


@pytest.mark.parametrize("isa", WITH_TILES, ids=lambda isa: isa.name)
@pytest.mark.parametrize("rows", [1, 16, 33])
def test_tiles_add_in_the_published_order(isa: Isa, rows: int) -> None:
    g = Generator().manual_seed(rows)
    kernel = CpuLinear("bfloat16", native_of(isa, 2))
    half, weight = uneven(rows, 192, g), uneven(70, 192, g)
    # The second half takes the first away, in another order of inputs: what is left is rounding.
    x, weight = torch.cat([half, -half.flip(1)], 1), torch.cat([weight, weight.flip(1)], 1)
    expected = summed(x, weight)
    in_pairs = torch.zeros_like(expected)
    for k in range(x.shape[1]):
        in_pairs += x[:, k, None].float() * weight[:, k].float()
    assert not torch.equal(in_pairs.bfloat16(), expected.bfloat16()), "the order would not show"
    assert torch.equal(kernel.run(kernel.pack(Weight(weight)), x), expected.bfloat16())


@pytest.mark.parametrize("isa", WITH_TILES, ids=lambda isa: isa.name)
def test_tiles_take_denormals_as_zero(isa: Isa) -> None:
    kernel = CpuLinear("bfloat16", native_of(isa, 1))
    x = torch.tensor([[2.0**-130, 1.0, 2.0**-100, 0.0]]).bfloat16()
    weight = torch.tensor(
        [[2.0**100, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0**-30, 0.0]]
    ).bfloat16()
    assert kernel.run(kernel.pack(Weight(weight)), x).tolist() == [[0.0, 1.0, 0.0]]
