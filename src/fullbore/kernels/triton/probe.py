"""How fast memory can be read: what no kernel that streams weights can pass."""

from torch import Tensor

from fullbore.kernels.triton.device import Target, here
from fullbore.kernels.triton.tiles.probe import sum_blocks

SIZE = 8192  # values of a block: 32 KiB
PROGRAMS = 8  # of each processor: enough reads on their way at once


def read(values: Tensor, target: Target | None = None) -> Tensor:
    """values: [n] int32, n a multiple of ``SIZE`` -> [programs] int32, partial sums."""
    target = target or here()
    blocks = values.numel() // SIZE
    programs = min(blocks, PROGRAMS * target.processors)
    sums = values.new_empty(programs)
    target.launch(sum_blocks, (programs,), values, sums, BLOCKS=blocks, PROGRAMS=programs, SIZE=SIZE, warps=8)
    return sums
