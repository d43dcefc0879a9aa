"""Every reference against the published formula, written out once more with plain loops in float64."""

from math import exp, inf, nan, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Generator, Tensor

from fullbore.ops.attention import Heads
from fullbore.ops.collectives import COLLECTIVES
from fullbore.ops.contract import DTYPES, Case, Operator
from fullbore.ops.formats import BLOCK, Weight
from fullbore.ops.operators import OPERATORS
from fullbore.ops.route import Routing

Array = NDArray[np.float64]
FORMATS = ("fp8_block", "bf16", "fp32")

quick = settings(max_examples=30)


def array(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def matrix(weight: Weight) -> Array:
    """The stored matrix, its blocks scaled one value at a time."""
    values = weight.data.double().numpy()
    if weight.scale is None:
        return values
    rows, columns = np.indices(values.shape)
    return values * array(weight.scale)[rows // BLOCK, columns // BLOCK]


def drawn(name: str, format: str, case: str = "random") -> list[Case]:
    operator, generator = OPERATORS[name], Generator().manual_seed(4)
    return [
        operator.draw(shape, case, format, DTYPES["float32"], generator)
        for shape in operator.shapes
        if shape.get("first", 0) * shape.get("tokens", 1) < 5000  # loops are slow
    ]


def agree(output: Tensor, expected: Array, relative: float = 1e-5) -> None:
    assert output.dtype == torch.float32
    assert output.shape == expected.shape
    rows = expected.reshape(-1, expected.shape[-1])
    error = np.linalg.norm(array(output).reshape(rows.shape) - rows, axis=-1)
    assert np.all(error <= relative * np.linalg.norm(rows, axis=-1))


@pytest.mark.parametrize("format", FORMATS)
def test_linear_and_embed(format: str) -> None:
    for case in drawn("linear", format, "extreme_scales"):
        (weight,), (x,) = case.weights, case.inputs
        w, rows = matrix(weight), array(x)
        expected = [[sum(a * b for a, b in zip(row, out, strict=True)) for out in w] for row in rows]
        agree(OPERATORS["linear"].reference(case.weights, x), np.array(expected))
    if format in OPERATORS["embed"].formats:
        for case in drawn("embed", format):
            output = OPERATORS["embed"].reference(case.weights, *case.inputs)
            table = matrix(case.weights[0])
            assert np.array_equal(array(output), np.array([table[i] for i in case.inputs[0].tolist()]))


def test_rms_norm() -> None:
    for case in drawn("rms_norm", "none"):
        (weight, eps), (x,) = case.weights, case.inputs
        expected = []
        for row in array(x):
            size = sqrt(sum(value * value for value in row) / len(row) + eps)
            expected.append([value / size * gain for value, gain in zip(row, array(weight), strict=True)])
        agree(OPERATORS["rms_norm"].reference(case.weights, x), np.array(expected))


def test_add_rms_norm_adds_and_then_normalises() -> None:
    for case in drawn("add_rms_norm", "none"):
        x, y = case.inputs
        total, normal = OPERATORS["add_rms_norm"].reference(case.weights, x, y)
        agree(total, array(x) + array(y))
        agree(normal, array(OPERATORS["rms_norm"].reference(case.weights, x + y)))
        # the sum that is normalised is the one that is kept, rounded as activations are
        x, y = x.bfloat16(), y.bfloat16()
        total, normal = OPERATORS["add_rms_norm"].reference(case.weights, x, y)
        assert torch.equal(total, (x + y).float())
        assert torch.equal(normal, OPERATORS["rms_norm"].reference(case.weights, x + y))


@quick
@given(st.floats(1e-3, 10.0), st.integers(0, 99))
def test_rms_norm_does_not_see_the_scale_of_a_row(scale: float, seed: int) -> None:
    x = torch.randn(3, 40, generator=Generator().manual_seed(seed))
    reference = OPERATORS["rms_norm"].reference
    agree(reference((torch.ones(40), 0.0), scale * x), array(reference((torch.ones(40), 0.0), x)))
    # and eps is inside the root: a row of zeros stays zero, a tiny one is damped
    assert not bool(reference((torch.ones(40), 1e-6), torch.zeros(1, 40)).any())
    assert float(reference((torch.ones(40), 1.0), torch.full((1, 40), 1.0))[0, 0]) == pytest.approx(0.5**0.5)


def test_rope_turns_neighbouring_pairs() -> None:
    for case in drawn("rope", "none"):
        x, cos, sin = case.inputs
        expected = array(x).copy()
        still = x.shape[2] - 2 * cos.shape[1]
        for token, head, pair in np.ndindex(x.shape[0], x.shape[1], cos.shape[1]):
            at = still + 2 * pair
            a, b = array(x)[token, head, at : at + 2]
            c, s = float(cos[token, pair]), float(sin[token, pair])
            expected[token, head, at : at + 2] = a * c - b * s, a * s + b * c
        agree(OPERATORS["rope"].reference((), x, cos, sin), expected)


@quick
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 99))
def test_rope_makes_scores_of_distances_alone(query: int, key: int, shift: int, seed: int) -> None:
    q, k = torch.randn(2, 1, 1, 8, generator=Generator().manual_seed(seed))
    speeds = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)

    def score(at: int, of: int) -> float:
        turned = []
        for x, position in ((q, at), (k, of)):
            angle = (position * speeds)[None]
            turned.append(OPERATORS["rope"].reference((), x, angle.cos().float(), angle.sin().float()))
        return float((turned[0] * turned[1]).sum())

    assert score(query + shift, key + shift) == pytest.approx(score(query, key), abs=1e-4)


def naive_route(gate: Array, bias: Array, routing: Routing, x: Array) -> list[dict[int, float]]:
    """Expert -> weight of each token; the report's equations 12 to 16 and the published config's groups."""
    chosen = []
    for row in x:
        scores = [1 / (1 + exp(-float(row @ expert))) for expert in gate]
        biased = [score + float(b) for score, b in zip(scores, bias, strict=True)]
        size = len(gate) // routing.n_group
        members = [range(g * size, (g + 1) * size) for g in range(routing.n_group)]
        strength = [sum(sorted((biased[e] for e in group), reverse=True)[:2]) for group in members]
        best = sorted(range(routing.n_group), key=lambda g: -strength[g])[: routing.topk_group]
        allowed = [expert for group in best for expert in members[group]]
        picked = sorted(allowed, key=lambda expert: -biased[expert])[: routing.k]
        total = sum(scores[expert] for expert in picked) if routing.norm_topk_prob else 1.0
        chosen.append({expert: scores[expert] / total * routing.scale for expert in picked})
    return chosen


@st.composite
def routings(draw: st.DrawFn) -> tuple[Tensor, Tensor, Routing, Tensor]:
    groups, size = draw(st.sampled_from([(1, 8), (4, 4), (8, 2), (3, 5)]))
    kept = draw(st.integers(1, groups))
    generator = Generator().manual_seed(draw(st.integers(0, 10**6)))
    gate = torch.randn(groups * size, 12, generator=generator)
    bias = draw(st.sampled_from([0.0, 0.3, 5.0])) * torch.randn(groups * size, generator=generator)
    shifted = bias - draw(st.sampled_from([0.0, 9.0]))
    k = draw(st.integers(1, kept * size))
    routing = Routing(k, groups, kept, draw(st.booleans()), draw(st.sampled_from([1.0, 2.5])))
    return gate, shifted, routing, torch.randn(5, 12, generator=generator)


@quick
@given(routings())
def test_route_picks_the_groups_and_experts_of_the_report(
    made: tuple[Tensor, Tensor, Routing, Tensor],
) -> None:
    gate, bias, routing, x = made
    ids, weights = OPERATORS["route"].reference((gate, bias, routing), x)
    assert ids.shape == weights.shape == (len(x), routing.k)
    expected = naive_route(array(gate), array(bias), routing, array(x))
    for row, (experts, given_weights) in enumerate(zip(ids.tolist(), weights.tolist(), strict=True)):
        got = dict(zip(experts, given_weights, strict=True))
        assert got == pytest.approx(expected[row], rel=1e-4)


@quick
@given(routings(), st.floats(-4.0, 4.0))
def test_a_bias_shared_by_all_experts_changes_nothing(
    made: tuple[Tensor, Tensor, Routing, Tensor], shift: float
) -> None:
    """It decides who is chosen, never with what weight."""
    gate, bias, routing, x = made
    output = OPERATORS["route"].reference((gate, torch.zeros_like(bias), routing), x)
    moved = OPERATORS["route"].reference((gate, torch.full_like(bias, shift), routing), x)
    assert OPERATORS["route"].error(moved, output) < 1e-6


def naive_swiglu(parts: tuple[Weight, Weight, Weight], x: Array) -> Array:
    gate, up, down = map(matrix, parts)
    rows = []
    for row in x:
        a, b = gate @ row, up @ row
        rows.append(down @ np.array([g / (1 + exp(-g)) * u for g, u in zip(a, b, strict=True)]))
    return np.array(rows)


@pytest.mark.parametrize("format", FORMATS)
def test_swiglu(format: str) -> None:
    for case in drawn("swiglu", format):
        agree(
            OPERATORS["swiglu"].reference(case.weights, *case.inputs),
            naive_swiglu(case.weights, array(case.inputs[0])),
        )


@pytest.mark.parametrize("case_name", ["random", "skewed", "one_expert"])
def test_moe_ffn_sums_each_tokens_experts(case_name: str) -> None:
    for case in drawn("moe_ffn", "fp8_block", case_name):
        (experts, routed, first, _), (x, ids, scores) = (*case.weights, 0, 0)[:4], case.inputs
        expected = np.zeros(x.shape)
        for shared in experts[routed:]:
            expected += naive_swiglu(shared, array(x))
        for token, row in enumerate(array(x)):
            for expert, score in zip(ids[token].tolist(), scores[token].tolist(), strict=True):
                if first <= expert < first + routed:  # others are elsewhere
                    expected[token] += score * naive_swiglu(experts[expert - first], row[None])[0]
        agree(OPERATORS["moe_ffn"].reference(case.weights, *case.inputs), expected)


def naive_attention(kv_b: Array, heads: Heads, q: Array, rows: Array) -> Array:
    """One token: q [heads, nope + rope] against the cache rows [keys, latent + rope] that it may see."""
    outputs = []
    for head in range(heads.count):
        part = kv_b[head * (heads.nope + heads.v) : (head + 1) * (heads.nope + heads.v)]
        to_key, to_value = part[: heads.nope], part[heads.nope :]
        scores, values = [], []
        for row in rows:
            latent, rope = row[: heads.latent], row[heads.latent :]
            content = q[head, : heads.nope] @ (to_key @ latent)
            place = q[head, heads.nope :] @ rope
            scores.append((content + place) * heads.softmax_scale)
            values.append(to_value @ latent)
        powers = [exp(score - max(scores)) for score in scores]
        outputs.append(sum(p * v for p, v in zip(powers, values, strict=True)) / sum(powers))
    return np.concatenate(outputs)


def rows_of(heads: Heads, cache: Tensor, pages: Tensor, count: int) -> Array:
    """What the first ``count`` rows of a request hold, found page by page."""
    size = cache.shape[1]
    rows = torch.stack([cache[int(pages[n // size]), n % size] for n in range(count)])
    return array(heads.row.decode(rows))


@pytest.mark.parametrize("case_name", ["random", "no_prefix", "extreme_scales"])
def test_mla_prefill_attends_to_what_came_before(case_name: str) -> None:
    cases = drawn("mla_prefill", "fp8_block", case_name)
    assert cases
    for case in cases:
        (kv_b, heads), (q, cache, pages, first) = case.weights, case.inputs
        rows = rows_of(heads, cache, pages, first + len(q))
        expected = [
            naive_attention(matrix(kv_b), heads, token, rows[: first + n + 1])
            for n, token in enumerate(array(q))
        ]
        agree(OPERATORS["mla_prefill"].reference(case.weights, *case.inputs), np.array(expected))


@pytest.mark.parametrize("case_name", ["random", "skewed"])
def test_mla_decode_attends_to_each_requests_own_rows(case_name: str) -> None:
    for case in drawn("mla_decode", "bf16", case_name)[:2]:
        (kv_b, heads), (q, cache, table, contexts) = case.weights, case.inputs
        expected = [
            naive_attention(matrix(kv_b), heads, token, rows_of(heads, cache, pages, count))
            for token, pages, count in zip(array(q), table, contexts.tolist(), strict=True)
        ]
        agree(OPERATORS["mla_decode"].reference(case.weights, *case.inputs), np.array(expected))


def test_a_decode_is_the_last_row_of_a_prefill() -> None:
    for case in drawn("mla_prefill", "fp32"):
        q, cache, pages, first = case.inputs
        whole = OPERATORS["mla_prefill"].reference(case.weights, *case.inputs)
        for row in (0, len(q) // 2, len(q) - 1):
            contexts = torch.tensor([first + row + 1], dtype=torch.int32)
            one = OPERATORS["mla_decode"].reference(case.weights, q[row, None], cache, pages[None], contexts)
            agree(one, array(whole[row, None]))


@pytest.mark.parametrize("name", ["mla_prefill", "mla_decode"])
def test_rows_beyond_a_context_are_never_seen(name: str) -> None:
    """Everything but the visible rows may change: other pages, the rest of the last page."""
    for case in drawn(name, "fp32"):
        q, cache, table, last = case.inputs
        expected = OPERATORS[name].reference(case.weights, *case.inputs)
        tables = table[None] if name == "mla_prefill" else table
        counts = [last + len(q)] if name == "mla_prefill" else last.tolist()
        changed = torch.full_like(cache, 7)
        for pages, count in zip(tables, counts, strict=True):
            for n in range(count):
                place = int(pages[n // cache.shape[1]]), n % cache.shape[1]
                changed[place] = cache[place]
        assert torch.equal(OPERATORS[name].reference(case.weights, q, changed, table, last), expected)


def test_latents_are_normalised_rotated_and_written_to_their_slots_and_no_others() -> None:
    for case in drawn("latents", "none", "extreme_scales"):
        (q_norm, kv_norm, eps, row), (x, cos, sin, cache, slots) = case.weights, case.inputs
        before, count = cache.clone(), 0 if q_norm is None else len(q_norm)
        queries, written, _ = OPERATORS["latents"].reference(case.weights, x, cos, sin, cache, slots)
        latent, key = x[:, count : count + row.latent], x[:, count + row.latent :]
        norm, rope = OPERATORS["rms_norm"].reference, OPERATORS["rope"].reference
        expected = array(row.decode(cache)).copy()
        for token, slot in enumerate(slots.tolist()):
            turned = rope((), key[token][None, None], cos[token][None], sin[token][None])[0, 0]
            values = torch.cat([norm((kv_norm, eps), latent[token][None])[0], turned])
            expected[slot // cache.shape[1], slot % cache.shape[1]] = array(values)
        agree(written, expected)
        assert queries.shape == (len(x), count)
        if q_norm is not None:
            agree(queries, array(norm((q_norm, eps), x[:, :count])))
        assert torch.equal(cache, before)  # a reference changes nothing


def test_greedy_takes_the_first_of_the_best_and_refuses_what_is_not_finite() -> None:
    reference = OPERATORS["greedy"].reference
    for case in drawn("greedy", "none"):
        (logits,) = case.inputs
        rows = logits.tolist()
        assert reference((), logits).tolist() == [row.index(max(row)) for row in rows]
        for wrong in (nan, inf, -inf):
            logits[0, -1] = wrong
            assert reference((), logits).tolist() == [-1, *(row.index(max(row)) for row in rows[1:])]


def test_every_operator_has_a_test_of_its_reference() -> None:
    checked = {
        "linear", "embed", "rms_norm", "rope", "route", "swiglu", "moe_ffn", "mla_prefill", "mla_decode",
        "add_rms_norm", "latents", "greedy", "draw_experts", *COLLECTIVES,  # test_exchange_references.py
        "sample",  # tests/kernels/test_sample.py
    }  # fmt: skip
    assert set(OPERATORS) == checked
    assert all(isinstance(operator, Operator) for operator in OPERATORS.values())
