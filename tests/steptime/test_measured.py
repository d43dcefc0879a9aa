"""The step time of a measured table: exact where it was measured, between where it was not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fullbore.steptime.measured import (
    CHUNKS,
    DECODES,
    SAMPLED,
    TOKENS,
    Host,
    MeasuredStepTime,
    OperatorTimes,
    Reading,
)
from fullbore.steptime.step import HOST, Step

counts = st.integers(1, 2000)


def floor_us(tokens: int, context: int) -> float:
    """Memory until 32 tokens, then arithmetic; a context is read."""
    return max(64.0, 2.0 * tokens) + 0.01 * tokens * context


def operator(sees: str, slower: float = 1.5, uses: int = 3, context: tuple[int, ...] = (0,)) -> OperatorTimes:
    readings = tuple(
        Reading(tokens, at, us, us / 1.1, us * 1.1, us / slower)
        for tokens in (1, 8, 64, 512)
        for at in context
        for us in [slower * floor_us(tokens, at)]
    )
    return OperatorTimes(sees, uses, sees, readings, floor_us)


def model(*operators: OperatorTimes, host: Host = Host(100.0, 5.0, 1.0)) -> MeasuredStepTime:  # noqa: B008
    return MeasuredStepTime(operators, host)


FOUR = (
    operator(TOKENS),
    operator(SAMPLED, 1.2, 1),
    operator(DECODES, 2.0, 3, (64, 512)),
    operator(CHUNKS, 1.7, 3, (0, 512)),
)
steps = st.builds(
    Step.of,
    st.lists(st.integers(1, 4000), max_size=20),
    st.lists(st.tuples(st.integers(2, 300), st.integers(0, 2000)), max_size=3),
)


@given(counts, st.integers(0, 3000))
def test_a_kernel_that_keeps_to_its_share_of_the_roofline_is_known_everywhere(
    tokens: int, context: int
) -> None:
    known = operator(DECODES, 1.5, 1, (64, 512)).of(tokens, context)
    assert known.us == pytest.approx(1.5 * floor_us(tokens, context))


@given(counts)
def test_between_two_readings_the_share_lies_between_theirs(tokens: int) -> None:
    readings = (Reading(1, 0, 640, 600, 700, 64), Reading(512, 0, 1280, 1200, 1400, 1024))
    times = OperatorTimes("linear", 1, TOKENS, readings, floor_us)
    share = times.of(tokens, 0).us / floor_us(tokens, 0)
    assert 1.25 - 1e-9 <= share <= 10 + 1e-9


def test_what_was_not_measured_is_less_certain() -> None:
    readings = (Reading(1, 0, 640, 600, 700, 64), Reading(512, 0, 1280, 1200, 1400, 1024))
    times = OperatorTimes("linear", 1, TOKENS, readings, floor_us)
    assert times.of(1, 0).deviation < times.of(23, 0).deviation
    assert times.of(512, 0).deviation < times.of(1024, 0).deviation < times.of(4096, 0).deviation


@given(st.floats(0.3, 3.0), st.floats(1.0, 20.0))
def test_only_what_the_floor_explains_follows_the_ceilings(slowdown: float, slower: float) -> None:
    """A time at its floor scales with the machine's memory; one that is mostly overhead hardly does."""
    then = 64.0 / slowdown  # the floor when it was read
    reading = Reading(1, 0, slower * then, slower * then, slower * then, then)
    now = OperatorTimes("linear", 1, TOKENS, (reading,), floor_us).of(1, 0).us
    assert now == pytest.approx(slower * then + (64.0 - then))


def test_cold_weights_are_never_read_faster_than_memory_allows() -> None:
    """A reading under its floor was made while memory was faster than when it was probed."""
    reading = Reading(1, 0, 40.0, 38.0, 42.0, 64.0)
    cold, warm = (OperatorTimes("linear", 1, TOKENS, (reading,), floor_us, cold) for cold in (True, False))
    assert cold.of(1, 0).us == pytest.approx(64.0)
    assert warm.of(1, 0).us == pytest.approx(40.0)


@given(steps)
def test_a_step_is_the_sum_of_its_terms(step: Step) -> None:
    times = model(*FOUR)
    cost = times.of(step)
    assert cost.time_s.mean == pytest.approx(sum(cost.terms_s.values()))
    assert cost.time_s.p10 <= cost.time_s.mean <= cost.time_s.p90
    # The quick way and the way with terms agree but for straight lines between contexts.
    assert times.seconds(step) == pytest.approx(cost.time_s.mean, rel=0.02, abs=1e-9)
    assert times.seconds(step) == times.seconds(step)
    if step.decodes or step.prefill_tokens:
        assert times.floor_s(step) < times.seconds(step)


@given(steps)
def test_one_more_decode_takes_longer(step: Step) -> None:
    more = replace(step, decodes=step.decodes + 1, context=step.context + 100, sampled=step.sampled + 1)
    times = model(*FOUR)
    assert times.of(more).time_s.mean > times.of(step).time_s.mean


def test_each_operator_sees_its_own_tokens() -> None:
    step = Step.of([100, 300], [(50, 0), (50, 0)])
    cost = model(*FOUR).of(step)
    us = {name: seconds * 1e6 for name, seconds in cost.terms_s.items()}
    assert us[TOKENS] == pytest.approx(3 * 1.5 * floor_us(102, 0))
    assert us[SAMPLED] == pytest.approx(1.2 * floor_us(4, 0))
    assert us[DECODES] == pytest.approx(3 * 2.0 * floor_us(2, 200))
    assert us[CHUNKS] == pytest.approx(2 * 3 * 1.7 * floor_us(50, 0))
    assert us[HOST] == pytest.approx(100 + 5 * 4 + 1 * 4)


def test_nothing_takes_no_time() -> None:
    assert model(*FOUR).seconds(Step()) == 0.0
    assert math.isclose(model(*FOUR).of(Step()).time_s.mean, 0.0)
