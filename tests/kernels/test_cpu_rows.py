"""Routing, norms, latents and rotation in C++: what they promise beyond the right values."""

from typing import Any

import pytest
import torch
from every_kernel import isas, native_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from fullbore.kernels.cpu.build import Isa
from fullbore.kernels.cpu.latents import CpuLatents
from fullbore.kernels.cpu.pointwise import CpuAddRmsNorm, CpuRmsNorm, CpuRope
from fullbore.kernels.cpu.route import CpuRoute
from fullbore.ops.cache import CacheRow
from fullbore.ops.contract import DTYPES
from fullbore.ops.operators import OPERATORS
from fullbore.ops.route import Routing

ON_EACH = pytest.mark.parametrize("isa", isas(), ids=lambda isa: isa.name)


@ON_EACH
@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(DTYPES)))
def test_rows_are_routed_by_themselves(isa: Isa, data: Any, dtype: str) -> None:
    """Any number of tokens, experts and inputs: right, alone as together, on one thread as on three."""
    tokens, hidden = data.draw(st.integers(1, 75)), data.draw(st.integers(1, 300))
    groups, each = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 40))
    kept = data.draw(st.integers(1, groups))
    routing = Routing(data.draw(st.integers(1, min(8, kept * each))), groups, kept, True, 2.5)
    g = Generator().manual_seed(tokens)
    weights = (
        torch.randn(groups * each, hidden, generator=g),
        torch.randn(groups * each, generator=g),
        routing,
    )
    x = torch.randn(tokens, 2 * hidden, generator=g).to(DTYPES[dtype])[:, :hidden]
    kernel, other = CpuRoute(dtype, native_of(isa, 1)), CpuRoute(dtype, native_of(isa, 3))
    packed = kernel.pack(*weights)
    ids, scores = kernel.run(packed, x)
    operator = OPERATORS["route"]
    assert operator.error((ids, scores), operator.reference(weights, x)) <= 1e-4
    assert all(torch.equal(*pair) for pair in zip(other.run(packed, x), (ids, scores), strict=True))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=30)))
    some = other.run(packed, x[rows])
    assert torch.equal(some[0], ids[rows])
    assert torch.equal(some[1], scores[rows])


@ON_EACH
def test_of_equal_experts_the_first_are_chosen(isa: Isa) -> None:
    kernel = CpuRoute("float32", native_of(isa, 2))
    packed = kernel.pack(torch.zeros(16, 5), torch.zeros(16), Routing(3, 4, 2, True, 1.0))
    ids, weights = kernel.run(packed, torch.ones(2, 5))
    assert ids.tolist() == [[0, 1, 2]] * 2
    assert torch.allclose(weights, torch.full((2, 3), 1 / 3))


@ON_EACH
def test_a_token_that_is_no_number_gets_real_experts_and_weights_that_show_it(isa: Isa) -> None:
    g = Generator().manual_seed(2)
    kernel = CpuRoute("float32", native_of(isa, 2))
    packed = kernel.pack(torch.randn(16, 5, generator=g), torch.zeros(16), Routing(3, 4, 2, True, 1.0))
    x = torch.randn(3, 5, generator=g)
    clean = kernel.run(packed, x)
    x[1, 2] = float("nan")
    ids, weights = kernel.run(packed, x)
    assert len(set(ids[1].tolist()) & set(range(16))) == 3
    assert bool(weights[1].isnan().all())
    assert torch.equal(ids[::2], clean[0][::2])
    assert torch.equal(weights[::2], clean[1][::2])


@ON_EACH
@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(DTYPES)), tokens=st.integers(1, 300))
def test_norm_and_rope_read_views_and_keep_rows_apart(isa: Isa, data: Any, dtype: str, tokens: int) -> None:
    g, type_ = Generator().manual_seed(tokens), DTYPES[dtype]
    width, heads, half = (data.draw(st.integers(1, most)) for most in (700, 5, 40))
    still = data.draw(st.integers(0, 50))
    norm, rope = CpuRmsNorm(dtype, native_of(isa, 1)), CpuRope(dtype, native_of(isa, 3))
    packed = norm.pack(torch.randn(width, generator=g), 1e-6)
    x = torch.randn(tokens, width + 3, generator=g).to(type_)[:, 3:]
    q = torch.randn(tokens, heads, 5 + still + 2 * half, generator=g).to(type_)[..., 5:]
    angles = torch.randn(tokens, half, generator=g)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=30)))
    other = CpuRmsNorm(dtype, native_of(isa, 3))
    assert torch.equal(other.run(packed, x[rows].clone()), norm.run(packed, x)[rows])
    turned = rope.run(None, q, angles.cos(), angles.sin())
    again = rope.run(None, q[rows].clone(), angles[rows].cos(), angles[rows].sin())
    assert torch.equal(again, turned[rows])
    assert torch.equal(turned[..., :still], q[..., :still])
    assert torch.equal(turned[..., still:], rope.run(None, q[..., still:], angles.cos(), angles.sin()))


@ON_EACH
@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(DTYPES)), tokens=st.integers(1, 300))
def test_the_sum_and_its_norm_are_those_of_two_steps(isa: Isa, data: Any, dtype: str, tokens: int) -> None:
    """To the bit, so that what is fused may change without an answer changing."""
    g, type_, width = Generator().manual_seed(tokens), DTYPES[dtype], data.draw(st.integers(1, 700))
    add, norm = CpuAddRmsNorm(dtype, native_of(isa, 3)), CpuRmsNorm(dtype, native_of(isa, 1))
    packed = norm.pack(torch.randn(width, generator=g), 1e-6)
    x, y = torch.randn(2, tokens, width + 3, generator=g).to(type_)[..., 3:]
    total, normal = add.run(packed, x, y)
    assert torch.equal(total, x + y)
    assert torch.equal(normal, norm.run(packed, x + y))
    with pytest.raises(ValueError, match="rows"):
        add.run(packed, x, torch.cat([y, y]))


@ON_EACH
@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(DTYPES)), tokens=st.integers(1, 200))
def test_latents_are_norms_and_rope_in_their_places(isa: Isa, data: Any, dtype: str, tokens: int) -> None:
    """To the bit those of the operators that it stands for, encoded, on any pages; no other slot changes."""
    g, type_ = Generator().manual_seed(tokens), DTYPES[dtype]
    q, latent, half = data.draw(st.integers(0, 300)), *(data.draw(st.integers(1, most)) for most in (300, 40))
    row = CacheRow(latent, 2 * half, data.draw(st.sampled_from([0, 8, 16])))
    eps, size = data.draw(st.sampled_from([(1e-6, 1.0), (1.0, 1.0), (1.0, 1e30)]))
    q_norm, kv_norm = torch.randn(q, generator=g), size * torch.randn(latent, generator=g).pow(3)
    gap = 0 if q else data.draw(st.integers(0, 9))  # queries that are not compressed are passed over
    x = torch.randn(tokens, q + gap + latent + 2 * half + 1, generator=g)
    x = (x * 10.0 ** (25 * torch.rand(tokens, 1, generator=g) - 20)).to(type_)[:, 1:]  # kept where eps is 1
    angles = torch.randn(tokens, half, generator=g)
    cos, sin = angles.cos(), angles.sin()
    page = data.draw(st.integers(1, 20))
    before = row.empty(-(-tokens // page) + 2, page, type_).fill_(1)
    slots = torch.randperm(before.shape[0] * page, generator=g)[:tokens]
    kernel = CpuLatents(dtype, native_of(isa, 3))
    norm, rope = CpuRmsNorm(dtype, native_of(isa, 1)), CpuRope(dtype, native_of(isa, 1))
    packed, cache = kernel.pack(q_norm if q else None, kv_norm, eps, row), before.clone()
    queries, written = kernel.run(packed, x, cos, sin, cache, slots)
    assert written is cache
    if q:
        assert torch.equal(queries, norm.run(norm.pack(q_norm, eps), x[:, :q]))
    kept = norm.run(norm.pack(kv_norm, eps), x[:, q + gap : q + gap + latent])
    turned = rope.run(None, x[:, None, q + gap + latent :], cos, sin)[:, 0]
    expected = before.clone()
    expected.view(-1, row.width)[slots] = row.encode(kept, turned)
    assert torch.equal(cache, expected)
    for slot in (-1, before.shape[0] * page):
        wrong = slots.clone()
        wrong[-1] = slot
        with pytest.raises(IndexError, match="rows"):
            kernel.run(packed, -x, cos, sin, cache, wrong)
        assert torch.equal(cache, expected)  # nothing is written where a slot is none
