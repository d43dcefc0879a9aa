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
def multiplied(left, right, sums, SWAP: tl.constexpr):
    """sums + left @ right in float32, as [m, n]; computed as its transpose where ``SWAP``: what is wide
    (outputs) then fills the side of the hardware's tile that has the most rows, however few tokens there are.
    """
    if SWAP:
        return tl.trans(product(tl.trans(right), tl.trans(left), tl.trans(sums)))
    return product(left, right, sums)


@triton.jit
def rounded(x, to):
    """float32 to the type that a pointer ``to`` points at, to nearest, ties to even."""
    if WIDE and to.dtype.element_ty == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        near = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        return (near >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return x.to(to.dtype.element_ty)


@triton.jit
def from_byte(value):
    """bfloat16 of FP8 or int8, exactly."""
    if WIDE:  # the interpreter takes integers for bfloat16's bits
        return value.to(tl.float32).to(tl.bfloat16)
    return value.to(tl.bfloat16)


@triton.jit
def from_nibble(code):
    """bfloat16 of a number that is kept as 4 bits, 8 more than itself.

    The bits of 128 + code are those of 128 and the code: no conversion from integers, which GPUs do slowly.
    """
    above = ((code & 15).to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
    if WIDE:
        return (above.to(tl.float32) - 136.0).to(tl.bfloat16)
    return above - 136.0


@triton.jit
def e4m3_codes(x):
    """The nearest e4m3fn codes of float32 numbers up to 448, ties to even: in integers, since not every
    device has this e4m3."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 codes count steps of 2^-9; the sum's last bit is one of them.
    small = (tl.abs(x) * 512.0 + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000
    code = tl.where(size < 0x3C800000, small, normal)
    code = tl.where(size > 0x7F800000, 0x7F, code)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def rounded_e4m3(x, to):
    """float32 within e4m3's reach to the e4m3 that a pointer ``to`` points at, to nearest, ties to even."""
    if WIDE:
        return e4m3_codes(x).to(tl.float8e4nv, bitcast=True)
    return x.to(to.dtype.element_ty)


@triton.jit
def e4m3_factor(largest, LARGEST: tl.constexpr):
    """What ``largest`` is divided by to become the largest number of e4m3; 1 for 0."""
    return tl.where(largest == 0.0, 1.0, largest / LARGEST)
