"""How two tiles are multiplied."""

import triton
import triton.language as tl

# The interpreter multiplies tiles of bfloat16 wrongly; float32 holds them exactly.
WIDE: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def product(left, right, sums):
    """sums + left @ right, in float32. left: [m, k]; right: [k, n], both bfloat16."""
    if WIDE:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sums)
    return tl.dot(left, right, sums)
