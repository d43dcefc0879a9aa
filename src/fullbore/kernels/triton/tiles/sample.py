"""A token drawn from a row of logits, without sorting it.

Whatever is asked of a row in the order of its logits (the k-th, the one at which the mass reaches a share) is
a threshold, and is found by halving the range of what a logit's bits can be. A row stays in the cache
nearest to the program meanwhile.
"""

import triton
import triton.language as tl


@triton.jit
def _keys(value, SHIFT: tl.constexpr):
    """Integers in the order of float32 values; of bfloat16 ones without the lower SHIFT bits."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits) >> SHIFT


@triton.jit
def _weight(key, top, inverse, SHIFT: tl.constexpr):
    """A token's mass, that of the best being 1."""
    size = tl.abs(key) << SHIFT
    value = tl.where(key < 0, -size.to(tl.float32, bitcast=True), size.to(tl.float32, bitcast=True))
    return tl.exp2((value - top) * inverse)


@triton.jit
def _above(row, least, top, inverse, VOCAB: tl.constexpr, SIZE: tl.constexpr, SHIFT: tl.constexpr):
    """(mass, number) of the tokens with keys from ``least`` on."""
    mass = tl.full((), 0.0, tl.float64)
    count = tl.full((), 0, tl.int32)
    for first in range(0, VOCAB, SIZE):
        at = first + tl.arange(0, SIZE)
        key = _keys(tl.load(row + at, at < VOCAB, 0.0).to(tl.float32), SHIFT)
        inside = (at < VOCAB) & (key >= least)
        mass += tl.sum(tl.where(inside, _weight(key, top, inverse, SHIFT), 0.0), 0).to(tl.float64)
        count += tl.sum(inside.to(tl.int32), 0)
    return mass, count


@triton.jit
def _reach(
    row, goal, low, high, top, inverse,
    COUNT: tl.constexpr, VOCAB: tl.constexpr, SIZE: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """(key, mass before, number before): the largest key from which on the mass is at least ``goal`` (COUNT:
    the number is), and what comes before it. Keys are in [low, high]."""
    low = low.to(tl.int64)
    high = high.to(tl.int64) + 1  # from here on it is too little
    while high - low > 1:
        middle = (low + high) // 2
        mass, count = _above(row, middle, top, inverse, VOCAB, SIZE, SHIFT)
        enough = count.to(tl.float64) >= goal if COUNT else mass >= goal
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    mass, count = _above(row, low + 1, top, inverse, VOCAB, SIZE, SHIFT)
    return low.to(tl.int32), mass, count


@triton.jit
def _nth(row, key, n, VOCAB: tl.constexpr, SIZE: tl.constexpr, SHIFT: tl.constexpr):
    """The id of the n-th token with this key, counted from 0; of the last where there are fewer."""
    chosen = tl.full((), 0, tl.int32)
    seen = tl.full((), 0, tl.int32)
    for first in range(0, VOCAB, SIZE):
        at = first + tl.arange(0, SIZE)
        same = _keys(tl.load(row + at, at < VOCAB, 0.0).to(tl.float32), SHIFT) == key
        same = ((at < VOCAB) & same).to(tl.int32)
        place = seen + tl.cumsum(same, 0) - 1
        chosen = tl.maximum(chosen, tl.max(tl.where((same > 0) & (place <= n), at, 0), 0))
        seen += tl.sum(same, 0)
    return chosen


@triton.jit
def _by_id(row, goal, top, inverse, VOCAB: tl.constexpr, SIZE: tl.constexpr, SHIFT: tl.constexpr):
    """The first id at which the running mass exceeds ``goal``; of the last with any mass where none does."""
    chosen = tl.full((), 0, tl.int32)
    mass = tl.full((), 0.0, tl.float64)
    for first in range(0, VOCAB, SIZE):
        at = first + tl.arange(0, SIZE)
        key = _keys(tl.load(row + at, at < VOCAB, 0.0).to(tl.float32), SHIFT)
        weight = tl.where(at < VOCAB, _weight(key, top, inverse, SHIFT), 0.0)
        before = mass + (tl.cumsum(weight, 0) - weight).to(tl.float64)
        chosen = tl.maximum(chosen, tl.max(tl.where((weight > 0.0) & (before <= goal), at, 0), 0))
        mass += tl.sum(weight, 0).to(tl.float64)
    return chosen


@triton.jit
def sample_row(
    logits, temperature, top_k, top_p, min_p, uniform, y,
    VOCAB: tl.constexpr, SIZE: tl.constexpr, SHIFT: tl.constexpr, COLDEST: tl.constexpr,
):  # fmt: skip
    """y[row] = the token that uniform[row] falls on among those that the row keeps."""
    index = tl.program_id(0)
    row = logits + index.to(tl.int64) * VOCAB
    low = tl.full((), 0x7FFFFFFF, tl.int32)
    high = tl.full((), -0x7FFFFFFF, tl.int32)
    for first in range(0, VOCAB, SIZE):
        at = first + tl.arange(0, SIZE)
        key = _keys(tl.load(row + at, at < VOCAB, 0.0).to(tl.float32), SHIFT)
        low = tl.minimum(low, tl.min(tl.where(at < VOCAB, key, 0x7FFFFFFF), 0))
        high = tl.maximum(high, tl.max(tl.where(at < VOCAB, key, -0x7FFFFFFF), 0))
    size = tl.abs(high) << SHIFT
    top = tl.where(high < 0, -size.to(tl.float32, bitcast=True), size.to(tl.float32, bitcast=True))
    inverse = 1.4426950408889634 / tl.maximum(tl.load(temperature + index), COLDEST)
    k = tl.load(top_k + index).to(tl.int32)
    p = tl.load(top_p + index)
    m = tl.load(min_p + index)
    whole, _ = _above(row, low, top, inverse, VOCAB, SIZE, SHIFT)
    kept = whole
    if k < VOCAB:
        key, mass, count = _reach(row, k.to(tl.float64), low, high, top, inverse, True, VOCAB, SIZE, SHIFT)
        kept = mass + (k - count).to(tl.float64) * _weight(key, top, inverse, SHIFT).to(tl.float64)
    if p < 1.0:
        key, mass, count = _reach(row, p * kept, low, high, top, inverse, False, VOCAB, SIZE, SHIFT)
        each = _weight(key, top, inverse, SHIFT).to(tl.float64)
        ties = tl.maximum(1.0, tl.ceil((p * kept - mass) / each))
        kept = tl.minimum(kept, mass + ties * each)
    if m > 0.0:
        mass = tl.full((), 0.0, tl.float64)
        for first in range(0, VOCAB, SIZE):
            at = first + tl.arange(0, SIZE)
            key = _keys(tl.load(row + at, at < VOCAB, 0.0).to(tl.float32), SHIFT)
            weight = tl.where(at < VOCAB, _weight(key, top, inverse, SHIFT), 0.0)
            mass += tl.sum(tl.where(weight.to(tl.float64) >= m, weight, 0.0), 0).to(tl.float64)
        kept = tl.minimum(kept, mass)
    # Just below 1 a product may round up to all there is.
    goal = tl.minimum(tl.load(uniform + index) * kept, kept * (1.0 - 2.0**-52))
    if (k < VOCAB) | (p < 1.0) | (m > 0.0):
        # The mass must exceed the goal: the next number above is the least that does.
        beyond = (goal.to(tl.int64, bitcast=True) + 1).to(tl.float64, bitcast=True)
        key, mass, count = _reach(row, beyond, low, high, top, inverse, False, VOCAB, SIZE, SHIFT)
        n = ((goal - mass) / _weight(key, top, inverse, SHIFT).to(tl.float64)).to(tl.int32)
        chosen = _nth(row, key, tl.maximum(n, 0), VOCAB, SIZE, SHIFT)
    else:
        chosen = _by_id(row, goal, top, inverse, VOCAB, SIZE, SHIFT)
    tl.store(y + index, chosen.to(tl.int64))
