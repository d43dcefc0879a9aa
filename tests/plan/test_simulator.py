"""The simulator: the engine's scheduler in virtual time, against what can be computed on paper."""

import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore.engine.step import Step
from fullbore.plan.simulator import Server, Simulated, simulate
from fullbore.scenario.metrics import figures
from fullbore.scenario.prompt import Request, Segment, Session
from fullbore.scenario.scenario import Limits

LIMITS = Limits(1e9, 1e9)
unhurried = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def single(number: int, inputs: int, outputs: int, start_s: float | None = None) -> Session:
    return Session(number, (Request(number, (Segment(f"p{number}", inputs),), outputs),), start_s)


def closed(count: int, inputs: int, outputs: int) -> list[Session]:
    return [single(number, inputs, outputs) for number in range(count)]


def linear(step: Step) -> float:
    """Ten milliseconds, and one for each token."""
    return 0.010 + 0.001 * step.tokens


def test_one_request_alone_takes_what_its_steps_take() -> None:
    server = Server(pages=64, max_num_batched_tokens=64, host_s=0.002)
    found = simulate(closed(1, 100, 5), server, linear, concurrency=1)
    (record,) = found.records
    # 64 and 36 tokens of the prompt, then one token a step
    assert record.ttft_s == pytest.approx(0.074 + 0.046 + 0.002)
    assert record.tpot_s == pytest.approx(0.011)
    assert (record.input_tokens, record.output_tokens, record.outcome) == (100, 5, "ok")
    assert found.steps == 6
    assert found.busy_s == pytest.approx(found.ended_s)


@unhurried
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=40),
    st.integers(8, 60),
)
def test_nothing_is_lost_and_littles_law_holds(
    concurrency: int, pages: int, lengths: list[tuple[int, int]], budget: int
) -> None:
    sessions = [single(number, *pair) for number, pair in enumerate(lengths)]
    server = Server(pages=pages, page_size=4, max_num_seqs=8, max_num_batched_tokens=budget)
    found = simulate(sessions, server, linear, concurrency)
    assert sorted(record.number for record in found.records) == list(range(len(sessions)))
    for record in found.records:
        fits = record.asked_input + record.asked_output - 1 <= pages * 4
        assert record.ok == fits
        if record.ok:
            assert record.output_tokens == record.asked_output
    # The engine is never idle while somebody waits, so all time is spent in steps.
    assert found.busy_s == pytest.approx(found.ended_s)
    got = figures(found.records, concurrency, LIMITS)
    if got.concurrency is not None:
        assert got.concurrency <= concurrency + 1e-9


def poisson(rate_s: float, count: int, inputs: int, outputs: int) -> Iterator[Session]:
    chance, now_s = random.Random(3), 0.0
    for number in range(count):
        now_s += chance.expovariate(rate_s)
        yield single(number, inputs, outputs, now_s)


def test_one_slot_and_equal_requests_are_the_queue_m_d_1() -> None:
    service_s, load = 0.05, 0.7
    server = Server(pages=64, max_num_seqs=1, max_queued=100_000)
    sessions = poisson(load / service_s, 20_000, 8, 1)
    found = simulate(sessions, server, lambda step: service_s if step.rows else 0.0)
    waits = [record.ttft_s - service_s for record in found.records]
    expected = load * service_s / (2 * (1 - load))  # Pollaczek-Khinchine
    assert statistics.fmean(waits) == pytest.approx(expected, rel=0.05)
    assert found.busy_s / found.ended_s == pytest.approx(load, rel=0.02)


def test_a_conversation_finds_its_own_past_in_the_prefix_tree() -> None:
    turns = tuple(Request(turn, (Segment(f"t{turn}", 32),), 16, think_s=1.0) for turn in range(4))
    computed: list[int] = []

    def watch(step: Step) -> float:
        computed.append(step.tokens)
        return 0.01

    found = simulate([Session(0, turns)], Server(pages=64, page_size=16), watch, concurrency=1)
    assert [record.turn for record in found.records] == [0, 1, 2, 3]
    assert [record.asked_input for record in found.records] == [32, 80, 128, 176]
    # A turn computes its own 32 tokens and the last token of the answer before; 15 steps of decode follow.
    assert sum(computed) == 32 + 3 * 48 + 4 * 15
    pauses = [
        later.sent_s - earlier.ended_s
        for earlier, later in zip(found.records, found.records[1:], strict=False)
    ]
    assert pauses == pytest.approx([1.0] * 3)


def test_shared_segments_are_computed_once() -> None:
    def asked(number: int) -> Session:
        prompt = (Segment("system", 64), Segment(f"own{number}", 16))
        return Session(number, (Request(number, prompt, 1),))

    total = 0

    def watch(step: Step) -> float:
        nonlocal total
        total += step.tokens
        return 0.01

    simulate(map(asked, range(5)), Server(pages=64, page_size=16), watch, concurrency=1)
    assert total == 64 + 5 * 16


def test_a_full_queue_refuses_and_a_closed_loop_goes_on() -> None:
    server = Server(pages=64, max_num_seqs=1, max_queued=1)
    found = simulate(closed(6, 8, 4), server, linear, concurrency=3)
    outcomes = [record.outcome for record in found.records]
    assert outcomes.count("ok") + outcomes.count("refused") == 6
    assert "refused" in outcomes


def test_the_same_run_gives_the_same_records() -> None:
    def once() -> Simulated:
        server = Server(pages=40, page_size=4, max_num_seqs=6, max_num_batched_tokens=32)
        return simulate(poisson(5.0, 200, 20, 12), server, linear)

    assert once() == once()


def test_nothing_is_sent_after_the_end() -> None:
    found = simulate(closed(1000, 8, 4), Server(pages=64), linear, concurrency=2, until_s=1.0)
    assert max(record.sent_s for record in found.records) <= 1.0
    assert len(found.records) < 1000
