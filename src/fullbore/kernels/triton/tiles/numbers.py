"""How two tiles are multiplied, and how numbers are rounded, here and in the interpreter."""

import triton
import triton.language as tl

# The interpreter multiplies tiles of bfloat16 wrongly (float32 holds them exactly) and rounds to it by
# cutting bits off.
WIDE: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def product(left, right, sums):
    """sums + left @ right, in float32. left: [m, k]; right: [k, n], both bfloat16."""
    if WIDE:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sums)
    return tl.dot(left, right, sums)


@triton.jit
def rounded(x, to):
    """float32 to the type that a pointer ``to`` points at, to nearest, ties to even."""
    if WIDE and to.dtype.element_ty == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        near = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        return (near >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return x.to(to.dtype.element_ty)
