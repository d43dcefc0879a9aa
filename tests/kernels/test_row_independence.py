"""Float32 torch kernels: a row's bits do not depend on its neighbours, its place, its pages or its chunk."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from fullbore.kernels.torch.attention import TorchMlaDecode, TorchMlaPrefill
from fullbore.kernels.torch.ffn import TorchSwiglu
from fullbore.kernels.torch.linear import TorchLinear
from fullbore.kernels.torch.moe import TorchMoeFfn
from fullbore.kernels.torch.pointwise import TorchAddRmsNorm, TorchLatents, TorchRmsNorm, TorchRope
from fullbore.kernels.torch.route import TorchRoute
from fullbore.ops.attention import Heads
from fullbore.ops.cache import CacheRow
from fullbore.ops.contract import Kernel
from fullbore.ops.draws import draw_weight
from fullbore.ops.ffn import draw_expert
from fullbore.ops.route import Routing

SIZES = st.one_of(st.integers(1, 48), st.sampled_from([64, 96, 129, 256, 257, 520]))
SETTINGS = settings(max_examples=60, deadline=None)


def parts(data: st.DataObject, tokens: int) -> list[Tensor]:
    """Some of ``tokens`` rows in any order and number: what else a row may find itself batched with."""
    picks = st.lists(st.integers(0, tokens - 1), min_size=1, max_size=2 * tokens)
    return [torch.tensor(data.draw(picks)) for _ in range(3)]


def check(kernel: Kernel, packed: Any, data: st.DataObject, *inputs: Tensor) -> None:
    """The kernel on any choice of rows equals that choice of the kernel's rows, bit for bit."""
    whole = kernel.run(packed, *inputs)
    whole = whole if isinstance(whole, tuple) else (whole,)
    for rows in parts(data, len(inputs[0])):
        some = kernel.run(packed, *(each[rows] for each in inputs))
        for one, all_ in zip(some if isinstance(some, tuple) else (some,), whole, strict=True):
            assert torch.equal(one, all_[rows])


@SETTINGS
@given(st.data(), st.integers(1, 70), SIZES, SIZES, st.sampled_from(["fp32", "fp8_block"]))
def test_linear_and_swiglu(data: st.DataObject, tokens: int, out: int, in_: int, format: str) -> None:
    g = Generator().manual_seed(tokens)
    x = torch.randn(tokens, in_, generator=g)
    linear, swiglu = TorchLinear("float32"), TorchSwiglu("float32")
    check(linear, linear.pack(draw_weight(out, in_, format, g)), data, x)
    check(swiglu, swiglu.pack(*draw_expert({"hidden": in_, "inter": out}, format, g)), data, x)


@SETTINGS
@given(st.data(), st.integers(1, 40), SIZES, SIZES, st.integers(1, 12))
def test_moe_ffn(data: st.DataObject, tokens: int, hidden: int, inter: int, experts: int) -> None:
    g = Generator().manual_seed(tokens)
    kernel = TorchMoeFfn("float32")
    widths = [inter] * experts + data.draw(st.lists(st.integers(1, 40), max_size=1))
    drawn = [draw_expert({"hidden": hidden, "inter": width}, "fp32", g) for width in widths]
    packed = kernel.pack(drawn, experts)
    k = data.draw(st.integers(1, experts))
    ids = torch.rand(tokens, experts, generator=g).topk(k, dim=-1).indices
    check(
        kernel,
        packed,
        data,
        torch.randn(tokens, hidden, generator=g),
        ids,
        torch.rand(ids.shape, generator=g),
    )


@SETTINGS
@given(st.data(), st.integers(1, 70), SIZES, st.integers(1, 4), st.integers(2, 9))
def test_route(data: st.DataObject, tokens: int, hidden: int, groups: int, each: int) -> None:
    g = Generator().manual_seed(tokens)
    kernel = TorchRoute("float32")
    kept = data.draw(st.integers(1, groups))
    routing = Routing(data.draw(st.integers(1, kept * each)), groups, kept, True, 2.5)
    gate, bias = torch.randn(groups * each, hidden, generator=g), torch.randn(groups * each, generator=g)
    check(kernel, kernel.pack(gate, bias, routing), data, torch.randn(tokens, hidden, generator=g))


@SETTINGS
@given(st.data(), st.integers(1, 70), SIZES, st.integers(1, 5), st.integers(1, 33))
def test_norm_and_rope(data: st.DataObject, tokens: int, width: int, heads: int, half: int) -> None:
    g = Generator().manual_seed(tokens)
    norm, rope = TorchRmsNorm("float32"), TorchRope("float32")
    check(
        norm, norm.pack(torch.randn(width, generator=g), 1e-6), data, torch.randn(tokens, width, generator=g)
    )
    x, angles = torch.randn(tokens, heads, 9 + 2 * half, generator=g), torch.randn(tokens, half, generator=g)
    check(rope, None, data, x, angles.cos(), angles.sin())
    add, y = TorchAddRmsNorm("float32"), torch.randn(2, tokens, width, generator=g)
    check(add, add.pack(torch.randn(width, generator=g), 1e-6), data, *y)
    q = data.draw(st.sampled_from([0, width]))
    latents, x = TorchLatents("float32"), torch.randn(tokens, q + width + 2 * half, generator=g)
    row = CacheRow(width, 2 * half, data.draw(st.sampled_from([0, 8, 16])))
    q_norm, kv_norm = torch.randn(q, generator=g), torch.randn(width, generator=g)
    packed = latents.pack(q_norm if q else None, kv_norm, 1e-6, row)

    class Rows(TorchLatents):
        """With the rows that it writes instead of the whole cache."""

        def run(self, packed: Any, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            cache = row.empty(2 * tokens + 1, 1, torch.float32)
            queries, _ = latents.run(packed, x, cos, sin, cache, torch.arange(len(x)))
            return queries, cache[: len(x), 0]

    check(Rows("float32"), packed, data, x, angles.cos(), angles.sin())


class Paged:
    """Requests of random tokens, each on pages of its own, scattered over two caches of unlike disorder."""

    def __init__(self, data: st.DataObject, contexts: list[int], page_size: int) -> None:
        self.g = g = Generator().manual_seed(sum(contexts))
        count = data.draw(st.integers(1, 9))
        nope, rope, v = data.draw(st.sampled_from([(8, 4, 8), (32, 16, 32), (20, 6, 12), (13, 2, 7)]))
        latent = data.draw(st.sampled_from([8, 24, 33, 64, 100]))
        bits = data.draw(st.sampled_from([0, 8, 16]))
        self.heads = Heads(count, nope, rope, v, latent, (nope + rope) ** -0.5, bits)
        self.weights = draw_weight(count * (nope + v), latent, "fp32", g), self.heads
        self.contexts, self.page_size = contexts, page_size
        self.q = [torch.randn(n, count, nope + rope, generator=g) for n in contexts]
        self.keys = [torch.randn(n, latent + rope, generator=g) for n in contexts]

    def place(self, seed: int, spare: int) -> tuple[Tensor, Tensor]:
        """A cache with the keys written on random pages and nan everywhere else, and the page table."""
        g = Generator().manual_seed(seed)
        needed = [-(-n // self.page_size) for n in self.contexts]
        free = (1 + torch.randperm(sum(needed) + spare, generator=g)).tolist()
        row = self.heads.row
        cache = row.empty(sum(needed) + spare + 1, self.page_size, torch.float32)
        cache.fill_(0xFF if cache.dtype is torch.uint8 else float("nan"))
        table = torch.zeros(len(needed), max(needed) + seed % 3, dtype=torch.int32)
        for request, keys in enumerate(self.keys):
            pages = [free.pop() for _ in range(needed[request])]
            table[request, : len(pages)] = torch.tensor(pages)
            at = torch.arange(len(keys))
            slots = torch.tensor(pages)[at // self.page_size] * self.page_size + at % self.page_size
            latent, rope = torch.split(keys, [row.latent, row.rope], dim=-1)
            cache.view(-1, row.width)[slots] = row.encode(latent, rope)
        return cache, table


@settings(max_examples=40, deadline=None)
@given(
    st.data(),
    st.lists(st.one_of(st.integers(1, 40), st.integers(200, 600)), min_size=1, max_size=6),
    st.sampled_from([1, 3, 16, 64, 300]),
)
def test_attention(data: st.DataObject, contexts: list[int], page_size: int) -> None:
    """A request's decode is the same alone, in a batch, on other pages, and as a row of any prefill chunk."""
    world = Paged(data, contexts, page_size)
    decode, prefill = TorchMlaDecode("float32"), TorchMlaPrefill("float32")
    packed = decode.pack(*world.weights)
    cache, table = world.place(seed=1, spare=5)
    last = torch.stack([q[-1] for q in world.q])
    counts = torch.tensor(contexts, dtype=torch.int32)
    together = decode.run(packed, last, cache, table, counts)
    plain = decode.pack(world.weights[0], replace(world.heads, kv_bits=0))
    held = world.heads.row.decode(cache)
    assert torch.equal(decode.run(plain, last, held, table, counts), together), "decoding added an error"
    assert bool(together.isfinite().all()), "what is not this request's leaked into it"

    elsewhere, other = world.place(seed=2, spare=0)
    for row, context in enumerate(contexts):
        n = torch.tensor([context], dtype=torch.int32)
        alone = decode.run(packed, last[row : row + 1], elsewhere, other[row : row + 1], n)
        assert torch.equal(alone[0], together[row])
        first = data.draw(st.integers(0, context - 1))
        chunk = prefill.run(packed, world.q[row][first:], cache, table[row], first)
        assert torch.equal(chunk[-1], together[row])
        begin = data.draw(st.integers(0, first))
        end = data.draw(st.integers(first + 1, context))
        wider = prefill.run(packed, world.q[row][begin:end], elsewhere, other[row], begin)
        assert torch.equal(wider[first - begin :], chunk[: end - first])


@pytest.mark.parametrize("out", [1, 7, 64, 1000])
def test_long_batches_equal_short_ones(out: int) -> None:
    g = Generator().manual_seed(out)
    kernel = TorchLinear("float32")
    packed = kernel.pack(draw_weight(out, 256, "fp32", g))
    x = torch.randn(3001, 256, generator=g)
    whole = kernel.run(packed, x)
    for rows in (slice(0, 1), slice(1500, 1507), slice(2990, 3001), slice(17, 1041)):
        assert torch.equal(kernel.run(packed, x[rows]), whole[rows])
