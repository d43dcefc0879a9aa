"""The search for the limit, on servers whose limit is known: it is found, with few measurements, and
survives pauses."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.bench.judge import Point, Run
from fullbore.bench.search import Answer, Effort, FindLimit, Sweep, add, answer, next_ask
from fullbore.bench.search_state import State, load_state, save_state, short
from fullbore.errors import UsageError
from fullbore.scenario.metrics import Record
from fullbore.scenario.scenario import Limits

LIMITS = Limits(ttft_ms=1e6, tpot_ms=93)
EFFORT = Effort()
Measure = Callable[[int, int], Run]
unhurried = settings(deadline=None, max_examples=25)


def server(
    tpot_ms: Callable[[float], float], noise: float = 0.0, seed: int = 0, refuse_above: int = 10**9
) -> Measure:
    """A closed loop on a server whose TPOT is known; its noise is common to the requests of a generation."""
    chance = random.Random(seed)

    def measure(concurrency: int, requests: int) -> Run:
        records = []
        for number in range(requests):
            generation, place = divmod(number, concurrency)
            if not place:
                common = chance.gauss(1, noise)
            tpot_s = tpot_ms(concurrency) / 1e3 * common * chance.gauss(1, noise)
            sent_s = generation * 10 * tpot_ms(concurrency) / 1e3
            chunks_s = (sent_s + tpot_s, sent_s + 10 * tpot_s)
            refused = place >= refuse_above
            outcome = "http 503" if refused else "ok"
            records.append(Record(number, 5, 10, sent_s, chunks_s[1], chunks_s, 5, 10, outcome))
        return tuple(records)

    return measure


def find(measure: Measure, plan: FindLimit | Sweep, limits: Limits = LIMITS) -> tuple[Answer, int]:
    points: tuple[Point, ...] = ()
    asked = 0
    while (ask := next_ask(points, plan, limits, EFFORT)) is not None:
        points = add(points, ask.value, measure(ask.value, ask.requests))
        asked += 1
        assert asked < 100, "the search does not end"
    return answer(points, plan, limits, EFFORT), asked


@unhurried
@given(
    st.integers(1, 2000),
    st.sampled_from([1.0, 0.5, 2.0]),
    st.floats(0.01, 0.9),
    st.integers(1, 3000),
)
def test_the_limit_of_a_steady_server_is_found_from_anywhere(
    truth: int, power: float, base: float, first: int
) -> None:
    measure = server(lambda n: 93 * (base + (1 - base) * (n / (truth + 0.5)) ** power))
    found, asked = find(measure, FindLimit(first=first))
    assert found.limit is not None
    assert found.broken is not None
    assert found.limit.value <= truth < found.broken.value
    assert found.broken.value - found.limit.value <= max(1, 0.02 * truth)
    assert found.done
    assert found.sure
    assert asked <= 24


@pytest.mark.parametrize("percentile", ["mean", "p90"])
def test_the_limit_of_a_noisy_server_is_found_as_often_as_was_promised(percentile: str) -> None:
    truth, wrong = 100, 0
    limits = replace(LIMITS, percentile=percentile)
    law = 1.0 if percentile == "mean" else 1 + 1.2816 * math.hypot(0.02, 0.02)
    for seed in range(12):
        measure = server(lambda n: 93 / law * (0.3 + 0.7 * n / truth), noise=0.02, seed=seed)
        found, _ = find(measure, FindLimit(first=32), limits)
        assert found.limit is not None
        assert found.broken is not None
        near = 0.94 * truth <= found.limit.value <= found.broken.value <= 1.06 * truth
        inside = found.limit.value <= truth <= found.broken.value
        assert near
        wrong += found.sure and not inside
    assert wrong <= 2  # 5 % of 12, and a chance of 1 in 50 of more


def test_limits_that_are_never_kept_and_limits_that_always_are() -> None:
    never, _ = find(server(lambda n: 100.0 + n), FindLimit(first=64))
    assert never.limit is None
    assert never.broken is not None
    assert never.broken.value == 1
    always, asked = find(server(lambda n: 50.0), FindLimit(most=300))
    assert always.limit is not None
    assert (always.limit.value, always.broken) == (300, None)
    assert asked <= 10


def test_a_failed_request_breaks_a_point() -> None:
    found, _ = find(server(lambda n: 10.0, refuse_above=37), FindLimit())
    assert found.limit is not None
    assert found.broken is not None
    assert (found.limit.value, found.broken.value) == (37, 38)
    assert "http 503" in found.broken.why


def test_a_search_ends_where_nothing_succeeds() -> None:
    found, asked = find(server(lambda n: 10.0, refuse_above=0), FindLimit())
    assert asked == 1
    assert found.limit is None
    assert found.curve[0].failed == found.curve[0].requests


def test_an_undecided_point_is_measured_again_and_says_so() -> None:
    measure = server(lambda n: 93.0, noise=0.05, seed=3)
    found, asked = find(measure, FindLimit(first=1, most=1))
    assert asked == 3
    assert found.curve[0].requests == 32
    assert not found.sure


def test_a_sweep_measures_its_list() -> None:
    found, asked = find(server(lambda n: 30.0 + n), Sweep((1, 64, 16)))
    assert asked == 3
    assert [each.value for each in found.curve] == [1, 16, 64]
    assert [each.keeps for each in found.curve] == [True, True, False]


def test_a_paused_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    path, identity, plan = tmp_path / "search.json", {"server": "a", "model": "m"}, FindLimit(first=8)
    measure = server(lambda n: 30.0 + n)
    whole, asked = find(measure, plan)
    for _ in range(asked):
        state = load_state(path, identity)
        ask = next_ask(state.points, plan, LIMITS, EFFORT)
        assert ask is not None
        run = short(measure(ask.value, ask.requests))
        save_state(path, State(identity, add(state.points, ask.value, run)))
    points = load_state(path, identity).points
    assert next_ask(points, plan, LIMITS, EFFORT) is None
    again = answer(points, plan, LIMITS, EFFORT)
    assert [each.value for each in again.curve] == [each.value for each in whole.curve]
    for one, other in zip(again.curve, whole.curve, strict=True):
        assert one.load == pytest.approx(other.load)


def test_another_search_or_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    save_state(path, State({"server": "a", "limits": "93"}))
    with pytest.raises(UsageError, match="another limits: 93 there, 100 here"):
        load_state(path, {"server": "a", "limits": "100"})
    path.write_text('{"points": 3}')
    with pytest.raises(UsageError, match="no search that can go on"):
        load_state(path, {})


def test_an_interrupted_run_is_topped_up() -> None:
    measure = server(lambda n: 10.0)
    points = add((), 8, measure(8, 5))
    ask = next_ask(points, FindLimit(first=8), LIMITS, EFFORT)
    assert ask is not None
    assert ask.value == 8
    assert ask.requests >= 32 - 5


def test_a_server_that_dies_ends_the_search_without_a_promise() -> None:
    def dead(number: int) -> Record:
        return Record(number, 1, 2, 0.0, 0.1, outcome="no connection")

    def good(number: int) -> Record:
        return Record(
            number, 1, 2, 0.1 * number, 0.1 * number + 0.1, (0.1 * number + 0.05, 0.1 * number + 0.1), 1, 2
        )

    points = add((), 4, tuple(map(good, range(64))))
    points = add(points, 8, tuple(map(dead, range(32))))
    found = answer(points, FindLimit(), Limits(1e3, 1e3), Effort())
    assert found.done
    assert not found.sure
    assert "at 8 in flight 32 of 32 requests failed: no connection (32)" in found.stopped
