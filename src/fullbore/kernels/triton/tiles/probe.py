"""Reading memory, and nothing else."""

import triton
import triton.language as tl


@triton.jit
def sum_blocks(values, sums, BLOCKS: tl.constexpr, PROGRAMS: tl.constexpr, SIZE: tl.constexpr):
    """sums[program]: of the SIZE values of every PROGRAMS-th block of ``values``, int32."""
    program = tl.program_id(0)
    at = tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.int32)
    for block in range(program, BLOCKS, PROGRAMS):
        total += tl.load(values + block * SIZE + at)
    tl.store(sums + program, tl.sum(total, 0))
