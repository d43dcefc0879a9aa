"""What the references leave open: the cache's bits, slots that are not there, ties, and what is no number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.kernels.torch.pointwise import TorchLatents
from fullbore.ops.cache import CacheRow
from fullbore.ops.formats import INTEGERS
from fullbore.ops.greedy import NOT_FINITE
from fullbore.ops.route import ROUTE, Routing

pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")

from fullbore.kernels.triton.linear import TritonLinear
from fullbore.kernels.triton.pointwise import TritonGreedy, TritonLatents
from fullbore.kernels.triton.route import TritonRoute, split_exactly

FEW = settings(max_examples=15)


def latents(x: torch.Tensor, row: CacheRow, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cache of six rows as Triton writes it, and as torch does."""
    norm = torch.linspace(0.5, 2.0, row.latent)
    angle = torch.arange(len(x) * row.rope // 2).view(len(x), -1).float()
    inputs = x, angle.cos(), angle.sin()
    cache = torch.zeros(3, 2, row.width, dtype=row.type(torch.bfloat16))
    kernel = TritonLatents("bfloat16")
    ours, *given = (each.to(kernel.target.device) for each in (cache.clone(), *inputs, slots))
    kernel.run(kernel.pack(None, norm, 1e-6, row), *given[:3], ours, given[3])
    plain = TorchLatents("bfloat16")
    plain.run(plain.pack(None, norm, 1e-6, row), *inputs, cache, slots.clamp(0, 5))
    return ours.cpu(), cache


@FEW
@given(
    st.integers(0, 999), st.integers(-30, 30), st.sampled_from([8, 16, 0]), st.sampled_from([32, 132, 256])
)
def test_rows_of_the_cache_have_the_same_bits_everywhere(
    seed: int, power: int, bits: int, latent: int
) -> None:
    """Codes may differ where the norm's last bit does; rows that are plain bfloat16 by at most that."""
    generator = torch.Generator().manual_seed(seed)
    row = CacheRow(latent, 8, bits)
    x = (torch.randn(4, latent + 8, generator=generator) * 2.0**power).bfloat16()
    ours, theirs = latents(x, row, torch.tensor([5, 0, 3, 2]))
    one, two = row.decode(ours), row.decode(theirs)
    assert torch.equal(ours[0, 1], theirs[0, 1])  # slot 1, that nobody wrote
    assert (one != two).float().mean() < 0.02
    assert torch.allclose(one, two, rtol=0.13 if bits == 8 else 0.01, atol=1e-3)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_slot_that_is_not_there_is_left_out(bits: int) -> None:
    row = CacheRow(32, 8, bits)
    ours, _ = latents(torch.ones(3, 40).bfloat16(), row, torch.tensor([-1, 6, 2]))
    written = row.decode(ours).view(6, -1).abs().sum(1) > 0
    assert written.tolist() == [False, False, True, False, False, False]


def test_what_is_no_number_shows_in_its_whole_group() -> None:
    row = CacheRow(256, 8, 8)
    x = torch.ones(1, 264).bfloat16()
    x[0, 3] = float("nan")
    ours, _ = latents(x, row, torch.tensor([0]))
    assert row.decode(ours).view(6, -1)[0, :256].isnan().all()


@FEW
@given(st.integers(1, 5000), st.integers(0, 99), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_the_first_of_the_best_tokens_is_chosen(vocab: int, seed: int, bad: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (3, vocab), generator=generator).bfloat16()
    kernel = TritonGreedy("bfloat16")
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert kernel.run(None, logits.to(kernel.target.device)).tolist() == expected
    logits[1, seed % vocab] = bad
    expected[1] = NOT_FINITE
    assert kernel.run(None, logits.to(kernel.target.device)).tolist() == expected


@FEW
@given(st.integers(0, 99), st.sampled_from([(8, 1, 1, 3), (12, 3, 2, 6), (32, 8, 3, 4)]))
def test_of_equal_experts_the_first_are_chosen(seed: int, sizes: tuple[int, int, int, int]) -> None:
    experts, groups, kept, k = sizes
    bias = torch.randint(0, 3, (experts,), generator=torch.Generator().manual_seed(seed)).float()
    kernel = TritonRoute("bfloat16")
    packed = kernel.pack(torch.zeros(experts, 16), bias, Routing(k, groups, kept, True, 2.5))
    ids, weights = (
        each.cpu() for each in kernel.run(packed, torch.ones(2, 16).bfloat16().to(kernel.target.device))
    )
    each = experts // groups
    strength = [sum(sorted(bias[g * each : (g + 1) * each].tolist())[-2:]) for g in range(groups)]
    best = sorted(range(groups), key=lambda g: (-strength[g], g))[:kept]
    allowed = [e for e in range(experts) if e // each in best]
    assert ids[0].tolist() == sorted(allowed, key=lambda e: (-float(bias[e]), e))[:k]
    assert torch.allclose(weights, torch.full((2, k), 2.5 / k))


def test_a_row_of_nan_is_routed_to_experts_that_exist() -> None:
    kernel = TritonRoute("bfloat16")
    packed = kernel.pack(torch.ones(12, 16), torch.zeros(12), Routing(6, 3, 2, True, 2.5))
    x = torch.full((1, 16), float("nan")).bfloat16()
    ids, weights = (each.cpu() for each in kernel.run(packed, x.to(kernel.target.device)))
    assert len({*ids[0].tolist()}) == 6
    assert set(ids[0].tolist()) <= set(range(12))
    assert weights.isnan().all()


@given(st.integers(0, 999), st.integers(-60, 60))
def test_a_gate_is_split_without_loss(seed: int, power: int) -> None:
    matrix = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    found = split_exactly(matrix)
    assert len(found) <= 3
    assert torch.equal(sum(part.double() for part in found).float(), matrix)
    assert len(split_exactly(matrix.bfloat16().float())) == 1


def test_the_reference_draws_what_needs_all_parts() -> None:
    drawn = ROUTE.draw(ROUTE.shapes[0], "random", "none", torch.bfloat16, torch.Generator().manual_seed(1))
    assert len(split_exactly(drawn.weights[0])) == 3


@given(st.integers(1, 9), st.integers(1, 300), st.sampled_from(["int4_g32", "int4_g128"]))
def test_numbers_of_4_bits_take_half_a_byte(out: int, in_: int, format: str) -> None:
    """And come back: a block's first half from low bits, its second from high ones."""
    integer = INTEGERS[format]
    weight = integer.quantise(torch.randn(out, in_, generator=torch.Generator().manual_seed(in_)))
    matrix = TritonLinear("bfloat16").place(weight)
    blocks = -(-in_ // matrix.block)
    assert matrix.data.shape == (out, blocks * matrix.block // 2)
    halves = torch.stack([matrix.data & 15, matrix.data >> 4]).view(2, out, blocks, -1)
    numbers = halves.permute(1, 2, 0, 3).reshape(out, -1).char() - 8
    assert torch.equal(numbers[:, :in_].cpu(), weight.data)
