"""Every figure against its definition: properties for any run, then runs worked out by hand."""

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore.scenario.metrics import CANCELLED, Record, Spread, figures, gaps, percentile
from fullbore.scenario.scenario import Limits

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test fails on time

LIMITS = Limits(ttft_ms=1000, tpot_ms=100)
near = pytest.approx


@st.composite
def records(draw: st.DrawFn) -> Record:
    sent_s = draw(st.floats(0, 100))
    steps = draw(st.lists(st.floats(1e-6, 5), min_size=1, max_size=12))
    times = [sent_s := sent_s + step for step in steps]
    start_s = times[0] - steps[0]
    return Record(
        number=draw(st.integers(0, 1000)),
        asked_input=5,
        asked_output=20,
        sent_s=start_s,
        ended_s=times[-1],
        chunks_s=tuple(times),
        input_tokens=draw(st.integers(1, 50)),
        output_tokens=len(times) * draw(st.integers(1, 3)),
    )


def failed(number: int = 0) -> Record:
    """Slow, long and failed: whatever mean it entered would move."""
    return Record(number, 5, 20, 0.0, 50.0, (40.0, 50.0), 10_000, 10_000, "http 500", "boom")


@unhurried
@given(st.lists(records(), min_size=1, max_size=8), st.integers(1, 9), st.randoms())
def test_figures_follow_their_definitions_in_any_order(
    run: list[Record], concurrency: int, rng: random.Random
) -> None:
    got = figures(run, concurrency, LIMITS)
    begin = min(r.sent_s for r in run)
    duration = max(r.chunks_s[-1] for r in run) - begin
    assert got.duration_s == near(duration)
    assert got.output_tok_s is not None
    assert got.output_tok_s * duration == near(sum(r.output_tokens for r in run))
    assert got.input_tok_s is not None
    assert got.total_tok_s == near(got.input_tok_s + got.output_tok_s)
    assert got.ttft_ms is not None
    assert got.ttft_ms.mean == near(sum(r.chunks_s[0] - r.sent_s for r in run) / len(run) * 1e3)
    many = [r for r in run if r.output_tokens > 1]
    if many:
        tpots = [(r.chunks_s[-1] - r.chunks_s[0]) / (r.output_tokens - 1) * 1e3 for r in many]
        assert got.tpot_ms is not None
        assert got.tpot_ms.count == len(many)
        assert got.tpot_ms.mean == near(sum(tpots) / len(tpots))
    pooled = sum(len(r.chunks_s) - 1 for r in run)
    assert (got.itl_ms.count if got.itl_ms else 0) == pooled
    assert got.concurrency == near(sum(r.chunks_s[-1] - r.sent_s for r in run) / duration)
    assert got.concurrency <= len(run) * (1 + 1e-9)
    assert 0 <= got.good_requests <= got.requests_ok == len(run)
    assert got.peak_output_tok_s is not None
    assert got.peak_output_tok_s <= sum(r.output_tokens for r in run) * (1 + 1e-9)
    assert got.peak_output_tok_s * (duration + 1) >= sum(r.output_tokens for r in run) * (1 - 1e-9)

    shuffled = list(run)
    rng.shuffle(shuffled)
    again = figures(shuffled, concurrency, LIMITS)
    assert again.ttft_ms == got.ttft_ms
    assert again.output_tok_s == near(got.output_tok_s)


@unhurried
@given(st.lists(records(), min_size=1, max_size=6))
def test_a_failed_or_cancelled_request_is_counted_and_in_no_mean(run: list[Record]) -> None:
    clean = figures(run, 4, LIMITS)
    cancelled = replace(failed(), outcome=CANCELLED)
    mixed = figures([failed(), *run, failed(1), cancelled], 4, LIMITS)
    assert (mixed.requests_ok, mixed.requests_failed, mixed.requests_cancelled) == (len(run), 2, 1)
    assert mixed.failures == {"http 500": 2}
    for name in (
        "ttft_ms",
        "tpot_ms",
        "itl_ms",
        "latency_ms",
        "output_tokens",
        "input_tokens",
        "good_requests",
    ):
        assert getattr(mixed, name) == getattr(clean, name), name


@unhurried
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_a_spread_is_ordered_and_inside_its_values(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread is not None
    assert min(values) <= spread.p50 <= spread.p90 <= spread.p99 <= spread.most == max(values)
    assert min(values) - 1e-9 <= spread.mean <= max(values) + 1e-9


@unhurried
@given(st.integers(2, 9), st.floats(0.01, 2), st.floats(0.001, 0.2), st.integers(2, 30), st.integers(2, 6))
def test_a_perfect_closed_loop_passes_the_audit(
    concurrency: int, ttft_s: float, tpot_s: float, output_tokens: int, waves: int
) -> None:
    latency_s = ttft_s + (output_tokens - 1) * tpot_s
    run = [
        Record(
            number=wave * concurrency + slot,
            asked_input=1,
            asked_output=output_tokens,
            sent_s=wave * latency_s,
            ended_s=(wave + 1) * latency_s,
            chunks_s=[wave * latency_s + ttft_s + k * tpot_s for k in range(output_tokens)],
            input_tokens=1,
            output_tokens=output_tokens,
        )
        for wave in range(waves)
        for slot in range(concurrency)
    ]
    got = figures(run, concurrency, LIMITS)
    assert got.littles_law == near(1)
    assert got.concurrency == near(concurrency)
    assert got.output_tok_s == near(concurrency * output_tokens / latency_s)
    assert got.tokens_per_chunk == 1
    if got.steady is not None:  # whole waves have no ramp and no drain to cut off
        # to one token of each slot at both ends of the window
        assert got.steady.output_tok_s == near(got.output_tok_s, rel=2 / output_tokens)


def test_two_requests_by_hand() -> None:
    first = Record(0, 4, 3, 10.0, 12.5, (11.0, 11.5, 12.5), 4, 3)
    second = Record(1, 4, 2, 10.5, 14.0, (13.0, 14.0), 5, 2)
    got = figures([second, first], 2, Limits(ttft_ms=1000, tpot_ms=750))
    assert got.duration_s == near(4.0)
    assert (got.input_tokens, got.output_tokens, got.asked_input_tokens) == (9, 5, 8)
    assert got.ttft_ms == Spread(2, 1750.0, 1750.0, 2350.0, 2485.0, 2500.0)
    assert got.tpot_ms == Spread(2, 875.0, 875.0, 975.0, 997.5, 1000.0)
    assert got.itl_ms is not None
    assert got.itl_ms.count == 3
    assert got.itl_ms.mean == near(2500 / 3)
    assert got.output_tok_s == near(1.25)
    assert got.input_tok_s == near(2.25)
    assert got.total_tok_s == near(3.5)
    assert got.peak_output_tok_s == 2  # seconds 1-2 hold two tokens; every other one at most one
    assert got.concurrency == near((2.5 + 3.5) / 4)
    assert got.good_requests == 1
    assert got.goodput_requests_s == near(0.25)
    assert got.littles_law == near(1.25 / 2.5 * (1.75 + 1.5 * 0.875) / 2)
    assert got.steady is None  # one request a slot is ramp and drain only


def test_steady_throughput_leaves_out_ramp_and_drain() -> None:
    """One slot that works from 0 to 3 s, another that idles after its second request."""
    slow = [Record(k, 1, 2, 2.0 * k, 2.0 * k + 2, (2.0 * k + 1, 2.0 * k + 2), 1, 2) for k in range(2)]
    fast = [Record(k, 1, 2, 1.0 * k, 1.0 * k + 1, (k + 0.5, k + 1.0), 1, 2) for k in range(2)]
    got = figures([*slow, *fast], 2, LIMITS)
    # First completion at 1 s, last send at 2 s, the next completion at 4 s: tokens at 1.5, 2, 2, 3, 4.
    assert got.steady is not None
    assert (got.steady.begin_s, got.steady.end_s) == (1.0, 4.0)
    assert got.steady.output_tok_s == near(5 / 3)


def test_several_tokens_in_a_chunk_leave_tpot_right() -> None:
    got = figures([Record(0, 1, 6, 0.0, 3.0, (1.0, 2.0, 3.0), 1, 6)], 1, LIMITS)
    assert got.tokens_per_chunk == 2
    assert got.tpot_ms is not None
    assert got.tpot_ms.mean == near(400)
    assert got.itl_ms is not None
    assert got.itl_ms.mean == near(1000)


def test_a_single_token_has_no_tpot_and_can_still_be_good() -> None:
    got = figures([Record(0, 1, 1, 0.0, 0.5, (0.5,), 1, 1)], 1, LIMITS)
    assert got.tpot_ms is None
    assert got.itl_ms is None
    assert got.good_requests == 1
    assert got.keeps(LIMITS)


def test_nothing_measured_gives_no_figures_rather_than_zeros() -> None:
    for run in ([], [failed()], [replace(failed(), outcome=CANCELLED)]):
        got = figures(run, 3, LIMITS)
        assert got.ttft_ms is got.tpot_ms is got.output_tok_s is got.concurrency is got.littles_law is None
        assert got.peak_output_tok_s is got.steady is got.goodput_requests_s is None
        assert not got.keeps(LIMITS)


def test_an_answer_without_tokens_is_a_failure() -> None:
    got = figures([Record(0, 1, 5, 0.0, 1.0)], 1, LIMITS)
    assert (got.requests_ok, got.failures) == (0, {"no tokens": 1})


def test_limits_are_judged_at_their_percentile() -> None:
    run = [Record(k, 1, 2, 0.0, t, (t, t + 0.01), 1, 2) for k, t in enumerate([0.1] * 9 + [2.0])]
    got = figures(run, 10, LIMITS)
    assert got.keeps(replace(LIMITS, ttft_ms=300, percentile="mean"))
    assert got.keeps(replace(LIMITS, ttft_ms=300, percentile="p50"))
    assert not got.keeps(replace(LIMITS, ttft_ms=300, percentile="p99"))
    assert not figures([*run, failed()], 10, LIMITS).keeps(replace(LIMITS, ttft_ms=1e6))


def test_percentiles_interpolate_linearly() -> None:
    assert percentile([1.0], 99) == 1
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert percentile([0.0, 10.0], 90) == 9
    assert list(gaps([1.0, 3.0, 6.0])) == [2.0, 3.0]
