"""What the mock server writes when, on a virtual clock, against its flags and what figures make of it."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_mock import VirtualMock, closed_loop

from fullbore.bench.mock.lateness import Lateness
from fullbore.bench.mock.timing import Fate, Timing
from fullbore.errors import UsageError
from fullbore.scenario.metrics import Spread, figures
from fullbore.scenario.scenario import Limits

WIDE = Limits(ttft_ms=1e9, tpot_ms=1e9, percentile="mean")

waits = st.floats(1e-4, 2.0)
counts = st.integers(1, 6)
timings = st.builds(
    Timing,
    ttft_s=waits,
    tpot_s=waits,
    ttft_per_token_s=st.floats(0, 0.01),
    tokens_per_chunk=counts,
    slowdown=st.floats(0, 2),
)


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-6)


def is_always(spread: Spread | None, value: float) -> None:
    assert spread is not None
    assert (spread.mean, spread.p50, spread.p99) == (near(value), near(value), near(value))


@given(
    timing=timings, concurrency=counts, rounds=counts, inputs=st.integers(1, 300), outputs=st.integers(1, 30)
)
def test_every_figure_of_a_closed_loop_is_what_was_configured(
    timing: Timing, concurrency: int, rounds: int, inputs: int, outputs: int
) -> None:
    records = closed_loop(timing, concurrency, rounds * concurrency, inputs, outputs)
    got = figures(records, concurrency, WIDE)
    latency_s = timing.latency_s(inputs, outputs, concurrency)
    rate = timing.requests_s(inputs, outputs, concurrency)
    assert rate == near(concurrency / latency_s)
    assert (got.requests_ok, got.requests_failed) == (rounds * concurrency, 0)
    assert got.duration_s == near(rounds * latency_s)
    is_always(got.ttft_ms, 1e3 * (timing.ttft_s + inputs * timing.ttft_per_token_s))
    is_always(got.latency_ms, 1e3 * latency_s)
    if outputs > 1:
        tpot_s = timing.tpot_s * (1 + timing.slowdown * (concurrency - 1))
        is_always(got.tpot_ms, 1e3 * tpot_s)
    chunks = 1 + -(-(outputs - 1) // timing.tokens_per_chunk)
    assert got.tokens_per_chunk == near(outputs / chunks)
    assert (got.itl_ms.count if got.itl_ms else 0) == rounds * concurrency * (chunks - 1)
    assert got.requests_s == near(rate)
    assert got.output_tok_s == near(rate * outputs)
    assert got.input_tok_s == near(rate * inputs)
    assert got.total_tok_s == near(rate * (inputs + outputs))
    assert got.goodput_requests_s == near(rate)
    assert got.concurrency == near(concurrency)
    assert got.littles_law == near(1)


@given(timing=timings, slots=counts, more=counts, rounds=counts)
def test_slots_limit_throughput_and_the_queue_is_in_order(
    timing: Timing, slots: int, more: int, rounds: int
) -> None:
    timing = replace(timing, max_running=slots)
    concurrency = slots + more
    records = closed_loop(timing, concurrency, rounds * slots + concurrency, 5, 9)
    latency_s = timing.latency_s(5, 9, slots)
    served = records[: rounds * slots]  # while every slot was taken
    for record in served:
        wave = record.number // slots  # which turn it had
        assert record.ended_s - records[0].sent_s == near((wave + 1) * latency_s)
        assert record.tpot_s == near(timing.tpot_with(slots))
    assert timing.requests_s(5, 9, concurrency) == near(slots / latency_s)
    firsts = [record.chunks_s[0] for record in records]
    assert all(earlier <= later for earlier, later in pairwise(firsts))


@given(seed=st.integers(), jitter=st.floats(0.01, 1), pairs=st.integers(1, 40))
def test_jitter_spreads_gaps_and_keeps_their_mean(seed: int, jitter: float, pairs: int) -> None:
    timing = Timing(0.1, 0.02, jitter=jitter, seed=seed)
    (record,) = closed_loop(timing, 1, 1, 3, 2 * pairs + 1)
    assert record.tpot_s == near(0.02)
    assert record.ttft_s == near(0.1)
    gaps_s = [later - earlier for earlier, later in pairwise(record.chunks_s)]
    assert len(set(gaps_s)) > 1
    assert all(0.02 * (1 - jitter) - 1e-9 <= gap_s <= 0.02 * (1 + jitter) + 1e-9 for gap_s in gaps_s)
    assert [near(gap_s) for gap_s in gaps_s] == [
        0.02 * factor for factor, _ in zip(timing.jitters(0), gaps_s, strict=False)
    ]


@given(
    seed=st.integers(0, 999),
    rates=st.tuples(*[st.floats(0, 0.25)] * 4),
    concurrency=counts,
    outputs=st.integers(1, 9),
)
def test_requests_fail_as_the_seed_says_and_the_rest_is_served(
    seed: int, rates: tuple[float, ...], concurrency: int, outputs: int
) -> None:
    timing = Timing(0.1, 0.02, 0.0, 0.0, 1, 0, 0.0, *rates, seed=seed)
    words = {Fate.SERVED: "ok", Fate.REFUSED: "http 503"}
    for record in closed_loop(timing, concurrency, 40, 2, outputs):
        fate = timing.fate(record.number)
        assert record.outcome == words.get(fate, fate.value)
        if record.ok:
            assert record.tpot_s in (None, near(0.02))
        elif fate is not Fate.REFUSED:
            assert len(record.chunks_s) == outputs // 2


def test_rates_are_shares_of_all_requests() -> None:
    timing = Timing(refuse_rate=0.1, error_rate=0.2, stop_rate=0.3, stall_rate=0.05)
    seen = Counter(timing.fate(number) for number in range(20_000))
    for fate, rate in timing._rates:
        assert seen[fate] / 20_000 == pytest.approx(rate, abs=0.01)
    assert {Timing().fate(number) for number in range(100)} == {Fate.SERVED}
    assert {Timing(error_rate=1).fate(number) for number in range(100)} == {Fate.ERROR}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ttft_s": -1.0}, "ttft_s is -1"),
        ({"tpot_s": float("nan")}, "tpot_s is nan"),
        ({"jitter": 1.5}, "at most 1"),
        ({"tokens_per_chunk": 0}, "tokens_per_chunk is 0"),
        ({"error_rate": 0.6, "stop_rate": 0.6}, "sum to 1.2"),
    ],
)
def test_timings_that_cannot_be(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Timing(**wrong)  # type: ignore[arg-type]


@given(late_s=st.lists(st.floats(0, 0.05), min_size=1, max_size=15))
def test_a_late_chunk_makes_no_other_chunk_late(late_s: list[float]) -> None:
    """The server is woken late by any amounts, yet the moments at which chunks are due stay as they were."""
    world = VirtualMock(Timing(0.1, 0.01))
    start_s = world.now_s
    exchange = world.send({"prompt": "x", "max_tokens": 100, "stream": True})
    for extra_s in late_s:
        world.ring(extra_s)
    world.run()
    times_s = [time_s for time_s, event in exchange.events() if event != "DONE"]
    assert len(times_s) == 100
    for number, time_s in enumerate(times_s):
        assert -1e-9 <= time_s - (start_s + 0.1 + number * 0.01) <= max(late_s) + 1e-9
    assert times_s[-1] == near(start_s + 0.1 + 99 * 0.01)
    summary = world.service.lateness.summary()
    assert summary["chunks"] == 100
    assert summary["most"] <= max(late_s) * 1e3 + 1e-6


def test_a_client_that_leaves_frees_its_place() -> None:
    world = VirtualMock(Timing(0.1, 0.01, max_running=1))
    body = {"prompt": "x", "max_tokens": 5, "stream": True}
    first, second, third = (world.send(body) for _ in range(3))
    start_s = world.now_s
    world.now_s += 0.05
    assert second.cancel is not None
    second.cancel()  # while it waits
    assert first.cancel is not None
    first.cancel()  # while it is served
    first.cancel()  # once more changes nothing
    world.run()
    assert third.ended_s == near(start_s + 0.05 + 0.1 + 4 * 0.01)
    assert first.ended_s is None
    counts = world.service.info()["requests"]
    assert (counts["cancelled"], counts["served"], counts["running"], counts["waiting"]) == (2, 1, 0, 0)


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=200))
def test_lateness_is_told_to_its_resolution(late_s: list[float]) -> None:
    lateness = Lateness()
    for each_s in late_s:
        lateness.add(each_s)
    ordered = sorted(late_s)
    told = lateness.summary()
    assert told["most"] == near(1e3 * ordered[-1])
    assert told["over_1_ms"] == sum(each_s > 1e-3 for each_s in late_s)
    median_s = ordered[(len(ordered) - 1) // 2]
    if median_s < 0.2:
        assert median_s * 1e3 - 1e-6 <= told["p50"] <= median_s * 1e3 + 0.05 + 1e-6
