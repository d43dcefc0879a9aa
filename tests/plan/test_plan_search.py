"""The search: exact on small spaces, the same every time, and more hardware or looser limits never hurt."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.errors import CapacityError, FullboreError, UsageError
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.layout import parse_layout
from fullbore.plan.advice import advise
from fullbore.plan.demand import Demand, demand_of
from fullbore.plan.search import front, search, why_lost
from fullbore.plan.space import Space, layouts_of, trials
from fullbore.plan.trial import Trial, highest
from fullbore.scenario.scenario import Limits, load_scenario
from fullbore.steptime.network import RECIPES
from fullbore.steptime.profiles import find_profile

CONFIG = named_config(DEEPSEEK_V3)
SMALL = Demand("short", 64, 32, 1.0, Limits(900.0, 60.0))
LONG = Demand("long", 256, 64, 1.0, Limits(1200.0, 60.0))


def ways(
    server: str, layouts: Sequence[str], demands: Sequence[Demand], caches: Sequence[str] = ("fp8",)
) -> list[Trial]:
    where = find_server(server)
    space = Space([parse_layout(text) for text in layouts], [RECIPES["fp8"]], caches, (0, 2048))
    found = trials(CONFIG, where, find_profile("sglang", where.device), space, demands)
    return [way for way in found if isinstance(way, Trial)]


@cache
def one(server: str) -> Trial:
    return ways(server, ["tp8"], [SMALL])[0]


@given(
    st.integers(0, 300),
    st.integers(1, 400),
    st.integers(1, 300),
    st.sampled_from((0.0, 0.3, 1.0, 5.0)),
    st.floats(0.0, 3.0),
    st.lists(st.integers(0, 400)),
)
def test_highest_is_the_edge_from_any_start(
    edge: int, start: int, most: int, power: float, jump: float, known: list[int]
) -> None:
    """Whatever the strain looks like: flat, steep, or with a jump at the edge."""

    def strain(count: int) -> float:
        return (count / (edge + 0.5)) ** power + jump * (count > edge) + (1e-9 if count > edge else 0.0)

    assert highest(strain, start, most, known) == min(edge, most)


def test_highest_asks_seldom_where_strain_is_smooth() -> None:
    for edge in (60, 223, 518, 1000):
        asked: list[int] = []

        def strain(count: int, edge: int = edge, asked: list[int] = asked) -> float:
            asked.append(count)
            return (20 + count) / (20.5 + edge)

        assert highest(strain, 256) == edge
        assert len(asked) <= 9  # bisection over 8192 takes 13


@settings(deadline=None, max_examples=12)
@given(st.floats(25.0, 80.0), st.floats(400.0, 2000.0))
def test_the_limit_keeps_and_one_more_does_not(tpot_ms: float, ttft_ms: float) -> None:
    demand = replace(SMALL, limits=Limits(ttft_ms, tpot_ms))
    trial = one("8xMI300X")
    limit = trial.limit(demand)
    assert trial.keeps(demand, limit)
    assert not trial.keeps(demand, limit + 1)


def test_pruning_changes_nothing() -> None:
    demands = [SMALL, LONG]
    layouts = ["tp8", "tp8ep8", "ep8dp8", "tp4dp2"]
    every = ways("8xMI300X", layouts, demands, ("bf16", "fp8"))
    scores = sorted((math.prod(way.limit(demand) for demand in demands) for way in every), reverse=True)
    for kept in (1, 3):
        found = search(ways("8xMI300X", layouts, demands, ("bf16", "fp8")), demands, kept)
        assert [math.prod(each.limits) for each in found.ranked] == scores[:kept]
        assert found.tried == len(every)
        assert found.outdone > 0  # or the search would only be the brute force


def test_the_same_answer_every_time_and_in_any_order() -> None:
    demands = [SMALL]
    layouts = ["tp8", "tp8ep8", "ep8dp8"]
    first = search(ways("8xH200", layouts, demands), demands)
    again = search(ways("8xH200", layouts, demands), demands)
    assert [(str(each.trial), each.limits) for each in first.ranked] == [
        (str(each.trial), each.limits) for each in again.ranked
    ]
    turned = search(ways("8xH200", layouts[::-1], demands), demands)
    assert turned.best.limits == first.best.limits


@settings(deadline=None, max_examples=8)
@given(st.floats(30.0, 70.0), st.floats(1.0, 1.5), st.floats(1.0, 1.5))
def test_looser_limits_never_hurt(tpot_ms: float, more: float, later: float) -> None:
    trial = one("8xMI300X")
    tight = replace(SMALL, limits=Limits(900.0, tpot_ms))
    loose = replace(SMALL, limits=Limits(900.0 * later, tpot_ms * more))
    assert trial.limit(loose) >= trial.limit(tight)


def test_a_limit_is_surer_the_lower_it_is() -> None:
    best = one("8xMI300X").best(SMALL)
    assert best.sure <= best.concurrency <= best.hoped


def test_the_front_has_nothing_that_another_beats() -> None:
    demands = [SMALL]
    found = search(ways("8xMI300X", ["tp8", "tp8ep8", "ep8dp8"], demands), demands)
    spots = front(found, SMALL)
    assert spots
    for spot in spots:
        assert not any(
            other is not spot
            and other.tpot_ms <= spot.tpot_ms
            and other.ttft_ms <= spot.ttft_ms
            and other.output_tok_s > spot.output_tok_s
            for other in spots
        )


def test_losers_are_told_why() -> None:
    demands = [SMALL]
    found = search(ways("8xMI300X", ["tp8", "ep8dp8"], demands), demands)
    for other in found.ranked[1:]:
        why = why_lost(found.best, other, demands)
        if other.limits < found.best.limits:
            assert f"with {found.best.limits[0]} in flight" in why
            assert "instead of" in why


def test_advice_adds_up_and_faster_parts_help() -> None:
    trial = one("8xMI300X")
    limit = trial.limit(SMALL)
    advice = advise(trial, SMALL, limit)
    assert sum(advice.parts_ms.values()) == pytest.approx(advice.reached.tpot_ms, rel=0.05)
    assert advice.floor_ms < advice.reached.tpot_ms
    changes = {change.name: change for change in advice.changes}
    for name in ("1 TB/s more memory bandwidth", "exchanges twice as fast", "half the launches' time"):
        assert changes[name].tpot_ms < advice.reached.tpot_ms
        assert changes[name].limit >= limit


def test_limits_below_the_floor_name_it() -> None:
    demand = replace(SMALL, limits=Limits(900.0, 1.0))
    with pytest.raises(FullboreError, match=r"even one request.*least TPOT.*the floor"):
        search(ways("8xMI300X", ["tp8"], [demand]), [demand])


def test_what_does_not_fit_is_told() -> None:
    where = find_server("4xMI300X")
    space = Space(layouts_of(CONFIG, where), [RECIPES["bf16"]])
    with pytest.raises(CapacityError, match=r"none of \d+ settings fits"):
        search(trials(CONFIG, where, find_profile("sglang", where.device), space, [SMALL]), [SMALL])


def test_three_devices_have_no_layout() -> None:
    with pytest.raises(UsageError, match="counts that do: 1, 2, 4"):
        layouts_of(CONFIG, find_server("3xMI300X"))


def test_scenarios_that_are_no_closed_loop_are_refused() -> None:
    with pytest.raises(UsageError, match="chat: a plan needs a closed loop"):
        demand_of(load_scenario("chat"))


def drafting(layout: str, drafts: int, acceptance: float) -> Trial:
    where = find_server("8xMI300X")
    space = Space(
        [parse_layout(layout)], [RECIPES["fp8"]], ("fp8",), (2048,), drafts=(drafts,), acceptance=acceptance
    )
    (found,) = trials(CONFIG, where, find_profile("sglang", where.device), space, [SMALL])
    assert isinstance(found, Trial)
    return found


LAYOUTS = st.sampled_from(("tp8", "tp8ep8", "ep8dp8"))


@settings(deadline=None, max_examples=25)
@given(LAYOUTS, st.integers(1, 3), st.integers(1, 200))
def test_drafts_that_are_never_right_gain_nothing(layout: str, drafts: int, concurrency: int) -> None:
    plain = drafting(layout, 0, 0.0).at(SMALL, concurrency)
    wrong = drafting(layout, drafts, 0.0).at(SMALL, concurrency)
    assert wrong.tpot_ms >= plain.tpot_ms
    # The order of prompts and decodes is another, which moves the ends of a short run a little.
    assert wrong.output_tok_s <= plain.output_tok_s * 1.01


@settings(deadline=None, max_examples=25)
@given(LAYOUTS, st.integers(1, 3), st.integers(1, 16), st.floats(0.05, 0.95))
def test_drafts_help_by_how_often_they_are_right(
    layout: str, drafts: int, concurrency: int, acceptance: float
) -> None:
    """With few in flight, where a step reads weights whatever it computes."""
    plain, some, all_right = (
        drafting(layout, count, share).at(SMALL, concurrency).tpot_ms
        for count, share in ((0, 0.0), (drafts, acceptance), (drafts, 1.0))
    )
    assert all_right < plain
    assert all_right <= some * 1.001  # steps are whole: 31 tokens take 16 by 1.94 each and by 2


def test_a_search_over_drafts_keeps_those_that_help() -> None:
    where, demands = find_server("8xMI300X"), [SMALL]
    profile = find_profile("sglang", where.device)
    limits = {}
    for acceptance in (0.0, 0.9):
        space = Space(
            [parse_layout("tp8")], [RECIPES["fp8"]], ("fp8",), (2048,), drafts=(0, 1), acceptance=acceptance
        )
        found = search(trials(CONFIG, where, profile, space, demands), demands)
        limits[acceptance] = found.best.limits
        assert (found.best.trial.setting.drafts > 0) == (acceptance > 0)
    assert limits[0.9] > limits[0.0]
