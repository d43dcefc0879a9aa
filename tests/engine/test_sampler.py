"""The sampler against plain Python, and what makes a seeded request repeatable."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fullbore.engine import sampler
from fullbore.engine.draws import Draws, kept_tokens, ranked, uniforms
from fullbore.engine.messages import Sampling
from fullbore.engine.sampler import NOT_FINITE, SampleRow
from fullbore.engine.step import Sampled
from fullbore.kernels.torch.greedy import TorchGreedy

EOS = (3,)
GREEDY = TorchGreedy("float32")


def sample(logits: torch.Tensor, rows: Sequence[SampleRow], eos: Sequence[int]) -> list[Sampled]:
    return sampler.sample(logits, rows, eos, partial(GREEDY.run, None))


def row(sampling: Sampling, prompt: Sequence[int] = (1,), generated: Sequence[int] = ()) -> SampleRow:
    return SampleRow(
        sampling,
        sampling.seed or 0,
        np.array(prompt, dtype=np.int64),
        np.array(generated, dtype=np.int64),
    )


def draws(logits: Sequence[float], sampling: Sampling, count: int) -> list[int]:
    """``count`` independent tokens: the same row with different seeds."""
    rows = [
        row(Sampling(**{name: getattr(sampling, name) for name in Sampling.__struct_fields__} | {"seed": s}))
        for s in range(count)
    ]
    return [each.token for each in sample(torch.tensor([list(logits)] * count), rows, EOS)]


def reference_kept(probabilities: Sequence[float], sampling: Sampling) -> set[int]:
    """The definition, token by token; ties go to the lower id."""
    order = sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token))
    if 0 < sampling.top_k < len(order):
        order = order[: sampling.top_k]
        mass = sum_in_order(probabilities[token] for token in order)
    else:
        mass = 1.0
    if sampling.top_p < 1.0:
        kept, before = [], 0.0
        for token in order:
            if before < sampling.top_p * mass:
                kept.append(token)
            before += probabilities[token]
        order = kept
    best = probabilities[order[0]]
    return {token for token in order if probabilities[token] >= sampling.min_p * best}


def sum_in_order(values: object) -> float:
    total = 0.0
    for value in values:  # type: ignore[attr-defined]
        total += value
    return total


cuts = st.builds(
    Sampling,
    top_k=st.one_of(st.just(0), st.integers(1, 60)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
)
some_logits = st.lists(st.sampled_from([x / 2 for x in range(-12, 13)]), min_size=40, max_size=40)


@given(st.lists(st.tuples(some_logits, cuts), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_top_k_top_p_and_min_p_keep_exactly_the_set_of_the_definition(
    cases: list[tuple[list[float], Sampling]],
) -> None:
    probabilities = torch.softmax(torch.tensor([logits for logits, _ in cases]), dim=1)
    values, ids = ranked(probabilities, 40)
    rows = [row(replace(sampling, temperature=1.0)) for _, sampling in cases]
    arrays = sampler._draw_arrays(rows, 40)
    wishes = Draws(*(torch.from_numpy(arrays[field]) for field in Draws._fields))
    kept = kept_tokens(values, wishes, 40).tolist()
    for index, (_, sampling) in enumerate(cases):
        expected = reference_kept(probabilities[index].tolist(), sampling)
        assert set(ids[index, : kept[index]].tolist()) == expected


@given(some_logits, cuts, st.floats(0.1, 2.0), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_no_token_outside_the_kept_set_is_ever_drawn(
    logits: list[float], cut: Sampling, temperature: float, seed: int
) -> None:
    sampling = Sampling(temperature, cut.top_p, cut.top_k, cut.min_p, seed)
    scaled = (torch.tensor([logits]) - max(logits)) / torch.tensor([temperature])
    allowed = reference_kept(torch.softmax(scaled, dim=1)[0].tolist(), sampling)
    rows = [row(sampling, generated=[0] * index) for index in range(30)]
    tokens = {each.token for each in sample(torch.tensor([logits] * 30), rows, EOS)}
    assert tokens <= allowed


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=1.7),
        Sampling(top_k=3),
        Sampling(top_p=0.8),
        Sampling(min_p=0.2),
        Sampling(temperature=1.3, top_k=5, top_p=0.9, min_p=0.05),
        Sampling(logit_bias={0: -2.0, 5: 1.5}),
    ],
)
def test_the_distribution_is_the_one_asked_for(sampling: Sampling) -> None:
    logits = [0.0, 1.0, 2.0, 0.5, -1.0, 1.5, -3.0, 2.5]
    count = 20_000
    adjusted = [value + sampling.logit_bias.get(token, 0.0) for token, value in enumerate(logits)]
    weights = [math.exp(value / sampling.temperature) for value in adjusted]
    probabilities = [weight / sum(weights) for weight in weights]
    kept = reference_kept(probabilities, sampling)
    mass = sum(probabilities[token] for token in kept)
    found = np.bincount(draws(logits, sampling, count), minlength=len(logits))
    assert found.sum() == count
    assert all(found[token] == 0 for token in range(len(logits)) if token not in kept)
    expected = {token: count * probabilities[token] / mass for token in kept}
    chi_square = sum((found[token] - want) ** 2 / want for token, want in expected.items())
    # Far beyond the 0.9999 quantile for 7 degrees of freedom (29.9); the seeds are fixed.
    assert chi_square < 30


def test_successive_tokens_of_one_seed_are_as_good_as_independent() -> None:
    values = uniforms([7] * 40_000, range(40_000))
    pairs = np.histogram2d(values[:-1], values[1:], bins=8)[0]
    expected = pairs.sum() / 64
    assert ((pairs - expected) ** 2 / expected).sum() < 120  # 63 degrees of freedom, 0.9999 quantile is 112
    assert values.min() >= 0.0
    assert values.max() < 1.0
    neighbours = uniforms(range(40_000), [0] * 40_000)
    assert abs(np.corrcoef(neighbours[:-1], neighbours[1:])[0, 1]) < 0.02


wishes = st.builds(
    Sampling,
    temperature=st.one_of(st.just(0.0), st.floats(0.05, 2.0)),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 1.0)),
    top_k=st.one_of(st.just(0), st.integers(1, 3000)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 0.5)),
    seed=st.integers(-(2**63), 2**63 - 1),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 0.8]),
    logit_bias=st.dictionaries(st.integers(0, 1999), st.floats(-5, 5), max_size=3),
    logprobs=st.integers(-1, 5),
    min_tokens=st.integers(0, 10),
)


@given(st.lists(wishes, min_size=2, max_size=8), st.integers(0, 2**31), st.data())
@settings(max_examples=60, deadline=None)
def test_a_row_gets_the_same_token_and_logprobs_alone_and_in_any_batch(
    batch: list[Sampling], seed: int, data: st.DataObject
) -> None:
    """A vocabulary beyond the depth of partial sorting, so that both ways are taken."""
    generator = torch.Generator().manual_seed(seed)
    scale = data.draw(st.sampled_from([0.0, 0.3, 5.0]))  # 0: everything ties
    logits = torch.randn(len(batch), 2000, generator=generator) * scale
    rows = [
        row(sampling, [1, 5, 9], torch.randint(0, 2000, (index,), generator=generator).tolist())
        for index, sampling in enumerate(batch)
    ]
    together = sample(logits, rows, EOS)
    order = data.draw(st.permutations(range(len(batch))))
    shuffled = sample(logits[torch.tensor(order)], [rows[index] for index in order], EOS)
    for place, index in enumerate(order):
        alone = sample(logits[index : index + 1], [rows[index]], EOS)
        assert alone == [together[index]] == [shuffled[place]]


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=12, max_size=12),
    st.lists(st.integers(0, 11), min_size=1, max_size=8),
    st.lists(st.integers(0, 11), max_size=8),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(0.1, 2),
    st.dictionaries(st.integers(0, 11), st.floats(-10, 10), max_size=4),
    st.integers(0, 8),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_penalties_biases_and_bars_against_plain_python(
    logits: list[float],
    prompt: list[int],
    generated: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    bias: dict[int, float],
    min_tokens: int,
    ignore_eos: bool,
) -> None:
    expected = []
    for token, value in enumerate(logits):
        value += bias.get(token, 0.0)
        if len(generated) < min_tokens and (token == 7 or (token in EOS and not ignore_eos)):
            value = -math.inf
        if token in prompt or token in generated:
            value = value / repetition if value > 0 else value * repetition
        value -= frequency * generated.count(token) + presence * (token in generated)
        expected.append(value)
    sampling = Sampling(
        temperature=0.0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
        logit_bias=bias,
        min_tokens=min_tokens,
        stop_token_ids=(7,),
        ignore_eos=ignore_eos,
    )
    neighbour = row(Sampling(temperature=0.0))
    batch = torch.tensor([logits, logits])
    kept = batch.clone()
    result, plain = sample(batch, [row(sampling, prompt, generated), neighbour], EOS)
    assert torch.equal(batch, kept)  # the model's logits are not changed in place
    assert expected[result.token] == pytest.approx(max(expected), abs=1e-4)
    assert logits[plain.token] == max(logits)


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    wish = Sampling(temperature=0.0, logit_bias={0: 100.0}, logprobs=2)
    first, second = sample(logits, [row(wish), row(Sampling(temperature=0.0, logprobs=0))], EOS)
    raw = torch.log_softmax(logits, dim=1)
    assert first.token == 0
    assert first.logprob == pytest.approx(raw[0, 0].item())
    assert [token for token, _ in first.top] == [3, 2]
    assert [value for _, value in first.top] == pytest.approx([raw[0, 3].item(), raw[0, 2].item()])
    assert (second.token, second.logprob, second.top) == (0, pytest.approx(raw[1, 0].item()), ())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_errs_alone(bad: float, temperature: float) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    rows = [row(Sampling(temperature, seed=index, logprobs=3)) for index in range(3)]
    healthy = sample(logits, rows, EOS)
    logits[1, 17] = bad
    first, broken, last = sample(logits, rows, EOS)
    assert (first, last) == (healthy[0], healthy[2])
    assert broken.error == NOT_FINITE


@pytest.mark.parametrize("temperature", [1e-300, 1e-12, 1e-3])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float) -> None:
    logits = torch.tensor([[1.0, 30.0, 29.0, -1e30]])
    assert sample(logits, [row(Sampling(temperature, seed=5))], EOS)[0].token == 1


def test_no_rows_no_tokens() -> None:
    assert sample(torch.empty(0, 8), [], EOS) == []
