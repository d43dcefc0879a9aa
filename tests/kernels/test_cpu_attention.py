"""Latent attention in C++: bits depend on the request alone, on every instruction set of this CPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from every_kernel import isas, native_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from fullbore.kernels.cpu.attention import CpuMlaDecode, CpuMlaPrefill
from fullbore.kernels.cpu.native import Native
from fullbore.ops.attention import MLA_PREFILL, Heads
from fullbore.ops.contract import DTYPES
from fullbore.ops.draws import draw_weight

SETTINGS = settings(max_examples=15, deadline=None)
CONTEXTS = st.one_of(st.integers(1, 70), st.sampled_from([64, 128, 129, 320, 577]))
HEADS = st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 40, 70]))
BITS = st.sampled_from([0, 8, 16])
SIZES = st.sampled_from(
    [(8, 4, 8, 32), (20, 6, 12, 33), (13, 2, 7, 64), (32, 16, 72, 160), (5, 3, 7, 5), (128, 8, 128, 96)]
)
FORMATS = st.sampled_from(["fp32", "fp8_block"])


@pytest.fixture(scope="module", params=isas(), ids=lambda isa: isa.name)
def threads(request: pytest.FixtureRequest) -> tuple[Native, Native]:
    """An instruction set with one thread, and with three."""
    return native_of(request.param, 1), native_of(request.param, 3)


class World:
    """Requests of random tokens on scattered pages; every other row of the cache is nan."""

    def __init__(self, data: st.DataObject, dtype: str) -> None:
        self.contexts = data.draw(st.lists(CONTEXTS, min_size=1, max_size=5))
        self.page_size = data.draw(st.sampled_from([1, 3, 16, 64, 100]))
        self.g = g = Generator().manual_seed(sum(self.contexts))
        count, (nope, rope, v, latent) = data.draw(HEADS), data.draw(SIZES)
        bits = data.draw(BITS)
        self.heads = Heads(count, nope, rope, v, latent, (nope + rope) ** -0.5, bits)
        self.weights = draw_weight(count * (nope + v), latent, data.draw(FORMATS), g), self.heads
        self.type = DTYPES[dtype]
        self.q = [torch.randn(n, count, nope + rope, generator=g).to(self.type) for n in self.contexts]
        self.keys = [torch.randn(n, latent + rope, generator=g).to(self.type) for n in self.contexts]

    def place(self, seed: int) -> tuple[Tensor, Tensor]:
        """The cache and the page table, with pages drawn by ``seed``. What is not written decodes to nan."""
        size, needed = self.page_size, [-(-n // self.page_size) for n in self.contexts]
        free = torch.randperm(sum(needed) + seed, generator=Generator().manual_seed(seed)).tolist()
        row = self.heads.row
        cache = row.empty(len(free), size, self.type)
        cache.fill_(0xFF if cache.dtype is torch.uint8 else float("nan"))
        table = torch.zeros(len(needed), max(needed) + seed, dtype=torch.int32)
        for request, keys in enumerate(self.keys):
            pages = [free.pop() for _ in range(needed[request])]
            table[request, : len(pages)] = torch.tensor(pages)
            at = torch.arange(len(keys))
            slots = table[request].long()[at // size] * size + at % size
            encoded = row.encode(*torch.split(keys, [row.latent, row.rope], dim=-1))
            cache.view(-1, row.width)[slots] = encoded
        return cache, table


def int32(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@SETTINGS
@given(data=st.data(), dtype=st.sampled_from(sorted(DTYPES)))
def test_decode_is_a_row_of_any_prefill(threads: tuple[Native, Native], data: Any, dtype: str) -> None:
    """The same bits alone and in a batch, on any pages, in any chunk, on any number of threads."""
    world, (one, three) = World(data, dtype), threads
    decode, prefill = CpuMlaDecode(dtype, one), CpuMlaPrefill(dtype, three)
    packed = decode.pack(*world.weights)
    (cache, table), (elsewhere, other) = world.place(seed=1), world.place(seed=3)
    last = torch.stack([q[-1] for q in world.q])
    together = decode.run(packed, last, cache, table, int32(*world.contexts))
    assert bool(together.isfinite().all()), "what is not this request's leaked into it"
    again = CpuMlaDecode(dtype, three).run(packed, last, elsewhere, other, int32(*world.contexts))
    assert torch.equal(again, together)
    for row, context in enumerate(world.contexts):
        alone = decode.run(packed, last[row : row + 1], elsewhere, other[row : row + 1], int32(context))
        assert torch.equal(alone[0], together[row])
        begin = data.draw(st.integers(0, context - 1))
        end = data.draw(st.integers(begin + 1, context))
        whole = prefill.run(packed, world.q[row], cache, table[row], 0)
        assert torch.equal(whole[-1], together[row])
        chunk = prefill.run(packed, world.q[row][begin:end], elsewhere, other[row], begin)
        assert torch.equal(chunk, whole[begin:end])
        if dtype == "float32":  # sizes that the operator's own shapes do not have
            expected = MLA_PREFILL.reference(world.weights, world.q[row], cache, table[row], 0)
            assert MLA_PREFILL.error(whole, expected) <= 1e-3


@SETTINGS
@given(
    data=st.data(),
    dtype=st.sampled_from(sorted(DTYPES)),
    poison=st.sampled_from([float("nan"), float("inf")]),
)
def test_poison_stays_in_its_row(
    threads: tuple[Native, Native], data: Any, dtype: str, poison: float
) -> None:
    """A query or key that is not finite shows in the tokens that see it, and changes no other token."""
    world, (one, _) = World(data, dtype), threads
    prefill = CpuMlaPrefill(dtype, one)
    packed = prefill.pack(*world.weights)
    cache, table = world.place(seed=1)
    clean = prefill.run(packed, world.q[0], cache, table[0], 0)
    at = data.draw(st.integers(0, world.contexts[0] - 1))
    rows = slice(at, at + 1) if data.draw(st.booleans()) else slice(at, None)
    if rows.stop is None:
        world.keys[0][at] = poison
        cache, table = world.place(seed=1)
    else:
        world.q[0][at] = poison
    poisoned = prefill.run(packed, world.q[0], cache, table[0], 0)
    hit = torch.zeros(len(clean), dtype=torch.bool)
    hit[rows] = True
    assert torch.equal(poisoned[~hit], clean[~hit])
    assert not bool(poisoned[hit].isfinite().all(-1).any())


@SETTINGS
@given(data=st.data(), dtype=st.sampled_from(sorted(DTYPES)))
def test_a_cache_in_any_format_gives_the_bits_of_what_it_holds(
    threads: tuple[Native, Native], data: Any, dtype: str
) -> None:
    """Decoding adds no error: attention is the same, bit for bit, on rows that were decoded beforehand."""
    world, (one, _) = World(data, dtype), threads
    cache, table = world.place(seed=1)
    plain = replace(world.heads, kv_bits=0)
    held = world.heads.row.decode(cache, world.type)
    contexts, last = int32(*world.contexts), torch.stack([q[-1] for q in world.q])
    decode, prefill = CpuMlaDecode(dtype, one), CpuMlaPrefill(dtype, one)
    packed, other = decode.pack(*world.weights), decode.pack(world.weights[0], plain)
    found = decode.run(packed, last, cache, table, contexts)
    assert torch.equal(found, decode.run(other, last, held, table, contexts))
    found = prefill.run(packed, world.q[0], cache, table[0], 0)
    assert torch.equal(found, prefill.run(other, world.q[0], held, table[0], 0))


def test_few_long_contexts_are_shared_among_threads(threads: tuple[Native, Native]) -> None:
    """More blocks than are kept at once: they are folded in several rounds, with the bits of one thread."""
    heads, g = Heads(5, 8, 4, 8, 32, 0.3), Generator().manual_seed(5)
    q, cache = torch.randn(8, 5, 12, generator=g), torch.randn(40, 64, 36, generator=g)
    table = torch.randint(0, 40, (8, 30), generator=g, dtype=torch.int32)
    contexts = int32(1900, 1, 1500, 64, 65, 1800, 700, 1900)
    results = []
    for native in threads:
        decode = CpuMlaDecode("float32", native)
        packed = decode.pack(draw_weight(5 * 16, 32, "fp32", Generator().manual_seed(6)), heads)
        results.append(decode.run(packed, q, cache, table, contexts))
    assert torch.equal(*results)


def test_wrong_pages_and_wrong_caches_are_refused() -> None:
    decode, prefill = CpuMlaDecode("float32"), CpuMlaPrefill("float32")
    heads = Heads(2, 8, 4, 8, 16, 0.3)
    packed = decode.pack(draw_weight(2 * 16, 16, "fp32", Generator()), heads)
    cache, q = torch.zeros(3, 4, 20), torch.zeros(2, 2, 12)
    for table, contexts in (((0, 3), 5), ((-1, 0), 5), ((0, 1), 9)):
        with pytest.raises(IndexError, match="page"):
            decode.run(packed, q[:1], cache, int32(*table)[None], int32(contexts))
        with pytest.raises(IndexError, match="page"):
            prefill.run(packed, q, cache, int32(*table), contexts - 2)
    with pytest.raises(ValueError, match="context"):
        decode.run(packed, q, cache, torch.zeros(2, 1, dtype=torch.int32), int32(1, 0))
    narrow = decode.pack(draw_weight(2 * 16, 16, "fp32", Generator()), replace(heads, kv_bits=8))
    with pytest.raises(TypeError, match=r"cache is torch.float32, expected torch.uint8"):
        decode.run(narrow, q[:1], cache, int32(0, 1)[None], int32(5))
    with pytest.raises(ValueError, match=r"\[3, 4, 20\], expected \[pages, page_size, 28\]"):
        decode.run(narrow, q[:1], cache.to(torch.uint8), int32(0, 1)[None], int32(5))
