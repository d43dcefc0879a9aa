"""What a run looked like along its way, and how long its gaps were."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.scenario.histogram import GROWTH, Histogram
from fullbore.scenario.metrics import Record, figures
from fullbore.scenario.samples import ratio, samples
from fullbore.scenario.scenario import Limits
from fullbore.scenario.timeline import MOST_STEPS, timeline

LIMITS = Limits(1e9, 1e9)


def steady_run(slots: int, waves: int, tokens: int, ttft_s: float, tpot_s: float) -> list[Record]:
    latency_s = ttft_s + (tokens - 1) * tpot_s
    return [
        Record(
            number=wave * slots + slot,
            asked_input=5,
            asked_output=tokens,
            sent_s=7 + wave * latency_s,
            ended_s=7 + (wave + 1) * latency_s,
            chunks_s=[7 + wave * latency_s + ttft_s + k * tpot_s for k in range(tokens)],
            input_tokens=5,
            output_tokens=tokens,
        )
        for wave in range(waves)
        for slot in range(slots)
    ]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.floats(0.01, 3.0), st.floats(0.001, 0.5))
def test_nothing_is_lost_in_the_timeline(
    slots: int, waves: int, tokens: int, ttft_s: float, tpot_s: float
) -> None:
    run = steady_run(slots, waves, tokens, ttft_s, tpot_s)
    steps = timeline(run)
    assert steps is not None
    assert sum(steps.output_tokens) == pytest.approx(slots * waves * tokens)
    assert sum(steps.prompt_tokens) == 5 * slots * waves
    assert sum(steps.completions) == slots * waves
    busy_s = sum(record.ended_s - record.sent_s for record in run)
    assert sum(steps.in_flight) * steps.step_s == pytest.approx(busy_s, rel=1e-6)
    assert max(steps.in_flight) <= slots + 1e-6


def test_a_long_run_has_long_steps_and_no_run_none() -> None:
    steps = timeline(steady_run(1, 100, 2, 60.0, 60.0))
    assert steps is not None
    assert len(steps.in_flight) <= MOST_STEPS
    assert timeline([]) is None


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_a_histogram_knows_quantiles_to_a_percent(values_ms: list[float], share: float) -> None:
    found = Histogram.of(values_ms)
    assert found is not None
    assert sum(found.counts) == len(values_ms)
    ordered = sorted(values_ms)
    rank = min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))
    assert found.quantile_ms(share) == pytest.approx(ordered[rank], rel=GROWTH - 1 + 1e-9)


def test_open_loops_say_whether_the_server_kept_up() -> None:
    def run(latency_s: float, growth_s: float) -> list[Record]:
        return [
            Record(
                n, 1, 2, 0.1 * n, 0.1 * n + late, (0.1 * n + late / 2, 0.1 * n + late), 1, 2, due_s=0.1 * n
            )
            for n in range(400)
            for late in [latency_s + growth_s * n]
        ]

    kept = figures(run(0.2, 0.0), None, LIMITS)
    behind = figures(run(0.2, 0.1), None, LIMITS)
    assert kept.littles_law is not None
    assert behind.littles_law is not None
    assert kept.littles_law > 0.98 > 0.8 > behind.littles_law
    assert kept.steady is not None
    assert kept.steady.output_tok_s == pytest.approx(20, rel=0.02)
    assert kept.steady.concurrency == pytest.approx(2, rel=0.02)


def test_a_ratio_of_two_runs_covers_the_truth() -> None:
    """Of 100 pairs whose means differ by a fifth, about 95 intervals hold 1.2."""

    def run(mean_s: float, seed: int) -> list[Record]:
        chance = random.Random(seed)
        sent_s, made = 0.0, []
        for number in range(120):
            ttft_s = mean_s * chance.uniform(0.5, 1.5)
            chunks = (sent_s + ttft_s, sent_s + ttft_s + 1)
            made.append(Record(number, 1, 2, sent_s, chunks[1], chunks, 1, 2))
            sent_s = chunks[1]
        return made

    held = 0
    for seed in range(100):
        above, below = (
            samples(run(mean, seed + k), None, None)["ttft_ms"] for mean, k in ((1.2, 0), (1, 999))
        )
        found = ratio(above, below)
        assert found is not None
        held += found.low <= 1.2 <= found.high
    assert 88 <= held <= 100
