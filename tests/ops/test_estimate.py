"""Times between and beyond what was measured, and for shapes that were not; always marked as such."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from records import timing

from fullbore.hardware.ceiling import Ceiling
from fullbore.ops.contract import Job, Operator
from fullbore.ops.demand import LADDER, PAGE, Workload, calls, step_shape, subject, usual_context
from fullbore.ops.estimate import Estimator
from fullbore.ops.evidence import Measured
from fullbore.ops.operators import OPERATORS
from fullbore.ops.times import Subject, Times, Timing
from fullbore.scenario.mix import StepShape

CEILING = Ceiling(1e10, {"float32": 1e11, "bfloat16": 2e11})
LINEAR = Job("linear", (("in", 256), ("out", 512)), "bf16", "bfloat16", "cpu")
WIDER = Job("linear", (("in", 512), ("out", 1024)), "bf16", "bfloat16", "cpu")
HEADS = (("heads", 4), ("latent", 64), ("nope", 32), ("rope", 16), ("v", 32))
DECODE = Job("mla_decode", HEADS, "bf16", "bfloat16", "cpu")
MOE = Job(
    "moe_ffn",
    (("experts", 64), ("hidden", 128), ("inter", 64), ("shared", 0)),
    "fp8_block",
    "bfloat16",
    "cpu",
)
counts = st.lists(st.integers(1, 2000), min_size=1, max_size=6, unique=True)


def of(job: Job, kernel: str, tokens: int, us: float, context: int = 0, code: str = "new") -> Timing:
    here = Subject.of(job, subject(job, {}))
    return timing(kernel, tokens, us, subject=here, context=context, code=code, packed=1000)


def estimator(*timings: Timing) -> Estimator:
    codes = {(operator, "fast"): "new" for operator in OPERATORS}
    return Estimator(Times(timings), codes, CEILING, {})


@given(counts, st.data())
def test_a_measured_count_is_told_as_it_was(tokens: list[int], data: st.DataObject) -> None:
    times = {count: data.draw(st.floats(1, 1e6)) for count in tokens}
    known = estimator(*(of(LINEAR, "fast", count, us) for count, us in times.items()))
    for count, us in times.items():
        found = known.of(LINEAR, "fast", count, 0)
        assert found is not None
        assert (found.us, found.source) == (us, "measured")


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(1, 1e5), st.floats(1, 1e5), st.data())
def test_between_two_counts_lies_between_two_times(
    low: int, more: int, first: float, last: float, data: st.DataObject
) -> None:
    high = low + more
    known = estimator(of(LINEAR, "fast", low, first), of(LINEAR, "fast", high, last))
    tokens = data.draw(st.integers(low, high))
    found = known.of(LINEAR, "fast", tokens, 0)
    assert found is not None
    assert min(first, last) * 0.999 <= found.us <= max(first, last) * 1.001
    assert found.source == ("measured" if tokens in (low, high) else "interpolated")


def test_beyond_the_ends_and_of_other_shapes_it_follows_the_roofline_and_is_assumed() -> None:
    known = estimator(of(LINEAR, "fast", 512, 100.0), of(LINEAR, "fast", 256, 60.0))
    cost = OPERATORS["linear"].cost
    floors = [
        CEILING.floor_us(each.flops, each.bytes, "bfloat16")
        for each in (cost({"in": 256, "out": 512, "tokens": n}, "bf16", "bfloat16") for n in (512, 2048))
    ]
    beyond = known.of(LINEAR, "fast", 2048, 0)
    assert beyond is not None
    assert beyond.source == "assumed"
    assert beyond.us == pytest.approx(100.0 * floors[1] / floors[0])
    other = known.of(WIDER, "fast", 512, 0)
    assert other is not None
    assert other.source == "assumed"
    assert other.us == pytest.approx(100.0 * other.floor_us / floors[0])
    assert known.packed_bytes(LINEAR, "fast") == 1000
    assert known.packed_bytes(WIDER, "fast") == 4000


def test_nothing_is_known_of_other_kernels_other_code_or_other_formats() -> None:
    known = estimator(of(LINEAR, "fast", 1, 5.0), of(LINEAR, "slow", 1, 5.0, code="gone"))
    assert known.of(LINEAR, "slow", 1, 0) is None
    assert known.of(Job("linear", LINEAR.shape, "fp8_block", "bfloat16", "cpu"), "fast", 1, 0) is None
    assert known.of(Job("embed", LINEAR.shape, "bf16", "bfloat16", "cpu"), "fast", 1, 0) is None
    assert estimator(of(LINEAR, "fast", 1, 5.0, code="old")).of(LINEAR, "fast", 1, 0) is None


@given(st.integers(64, 4096), st.sampled_from([1, 2, 5, 8]))
def test_contexts_are_interpolated_too(context: int, tokens: int) -> None:
    times = {(1, 64): 10.0, (8, 64): 40.0, (1, 4096): 300.0, (8, 4096): 1000.0}
    known = estimator(*(of(DECODE, "fast", n, us, at) for (n, at), us in times.items()))
    found = known.of(DECODE, "fast", tokens, context)
    assert found is not None
    assert 9.99 <= found.us <= 1000.1
    assert (found.source == "measured") == ((tokens, context) in times)
    longer = known.of(DECODE, "fast", tokens, 5000)
    assert longer is not None
    assert longer.source == "assumed"
    assert longer.us >= found.us


def test_fewer_experts_stand_for_all_of_them() -> None:
    """Where all would not fit into memory."""
    few = Subject.of(MOE, {**subject(MOE, {"k": 4}), "experts": 16})
    times = Times([timing("fast", 1, 50.0, subject=few, packed=16_000)])
    known = Estimator(times, {("moe_ffn", "fast"): "new"}, CEILING, {"k": 4})
    found = known.of(MOE, "fast", 1, 0)
    assert found is not None
    assert found.source == "assumed"
    assert found.us == pytest.approx(50.0, rel=0.01), "one token touches 4 experts of any number"
    assert known.packed_bytes(MOE, "fast") == pytest.approx(64_000, rel=0.01)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))
def test_every_operator_can_be_drawn_at_a_jobs_shape(operator: Operator) -> None:
    for shape in operator.shapes:
        drawn = operator.draw(shape, operator.timed, operator.formats[0], torch.float32, torch.Generator())
        job = Job.of(operator, drawn.weights, "float32", "cpu")
        full = step_shape(operator, subject(job, {}), 3, 7)
        assert full.keys() - {"page"} == shape.keys()
        again = operator.draw(full, operator.timed, operator.formats[0], torch.float32, torch.Generator())
        assert Job.of(operator, again.weights, "float32", "cpu") == job
        if operator.draw_inputs:
            inputs = operator.draw_inputs(full, operator.timed, torch.float32, torch.Generator())
            assert [each.shape for each in inputs] == [each.shape for each in again.inputs]


def test_sizes_that_a_job_does_not_know_come_from_the_model() -> None:
    assert subject(MOE, {"k": 7, "heads": 3})["k"] == 7
    assert subject(MOE, {})["k"] == OPERATORS["moe_ffn"].shapes[0]["k"]
    assert "heads" not in subject(MOE, {"heads": 3})
    assert subject(DECODE, {"heads": 99})["heads"] == 4, "the job knows better"
    assert subject(DECODE, {})["page"] == PAGE


MIX = (
    StepShape(8, 600, (), 8, 0.75),
    StepShape(6, 580, ((100, 0), (50, 300)), 7, 0.25),
)


def test_a_step_asks_each_operator_for_its_share() -> None:
    asked = {(call.tokens, call.context): call.weight for call in calls(LINEAR, MIX)}
    assert asked == {(8, 0): 0.75, (156, 0): 0.25}
    assert [call.tokens for call in calls(LINEAR, MIX, head=True)] == [8, 7]
    assert [(call.tokens, call.context) for call in calls(DECODE, MIX)] == [(8, 600), (6, 580)]
    prefill = Job("mla_prefill", DECODE.shape, "bf16", "bfloat16", "cpu")
    assert [(call.tokens, call.context) for call in calls(prefill, MIX)] == [(100, 0), (50, 300)]
    assert usual_context(DECODE, MIX) == 600
    assert usual_context(LINEAR, MIX) == 0
    assert usual_context(prefill, MIX[:1]) == 0


def test_the_expected_cost_is_the_mixs_average_by_buckets() -> None:
    times = [of(LINEAR, "fast", tokens, 10.0 * tokens) for tokens in (*LADDER, 156)]
    evidence = Measured(estimator(*times), MIX)
    found = evidence.expected(LINEAR, "fast")
    assert found is not None
    assert found.us == pytest.approx(0.75 * 80 + 0.25 * 1560)
    assert found.source == "measured"
    assert found.by_bucket[LADDER.index(8)] == pytest.approx(60, rel=1e-3)
    assert found.by_bucket[LADDER.index(256)] == pytest.approx(390, rel=1e-3)
    assert 0 < found.by_bucket[LADDER.index(1)] < 1e-6, "never visited, yet the faster one is told apart"
    assert evidence.expected(LINEAR, "unknown") is None
    head = Measured(estimator(*times), MIX, frozenset({LINEAR})).expected(LINEAR, "fast")
    assert head is not None
    assert head.us == pytest.approx(0.75 * 80 + 0.25 * 70, rel=1e-6)
    assert head.source == "interpolated"


def test_a_workload_lists_each_job_once() -> None:
    work = Workload({(LINEAR,): 2, (WIDER, LINEAR): 1})
    assert work.jobs == (LINEAR, WIDER)
