"""Queues of a finite population, against closed forms and against a simulation of the same."""

import math
import random
from heapq import heappop, heappush

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.plan.people import Habits, crowd, most_people

unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(st.integers(1, 60), st.integers(1, 20), st.floats(0.1, 100.0), st.floats(0.1, 100.0))
def test_the_machine_repairman(population: int, crew: int, think_s: float, service_s: float) -> None:
    """p(n) / p(0) in closed form, for ``crew`` repairers of whom each serves one."""
    found = crowd(population, think_s, lambda count: min(count, crew) / service_s)
    ratio = service_s / think_s
    weights = [
        math.comb(population, n)
        * ratio**n
        * (1 if n <= crew else math.factorial(n) / math.factorial(crew) / crew ** (n - crew))
        for n in range(population + 1)
    ]
    total = math.fsum(weights)
    for count, chance in enumerate(found.chances):
        assert chance == pytest.approx(weights[count] / total, rel=1e-6, abs=1e-12)


@unhurried
@given(st.integers(1, 500), st.floats(1.0, 1000.0), st.floats(0.01, 10.0), st.floats(0.0, 1.0))
def test_littles_law_of_the_whole_circle(
    population: int, think_s: float, service_s: float, slope: float
) -> None:
    found = crowd(population, think_s, lambda count: count / (service_s * (1 + slope * count)))
    assert math.fsum(found.chances) == pytest.approx(1.0)
    # everybody is either asking or thinking: N = X (R + Z)
    assert found.requests_s * (found.response_s + think_s) == pytest.approx(population, rel=1e-6)
    assert found.in_flight == pytest.approx(found.requests_s * found.response_s, rel=1e-9)


def test_very_many_people_who_ask_rarely_are_the_queue_m_m_1() -> None:
    load, service_s = 0.6, 1.0
    population = 20_000
    found = crowd(population, population * service_s / load, lambda count: 1 / service_s)
    for count in range(8):
        assert found.chances[count] == pytest.approx((1 - load) * load**count, rel=2e-3)
    assert found.response_s == pytest.approx(service_s / (1 - load), rel=2e-3)


def test_against_a_simulation_with_other_than_exponential_thought() -> None:
    population, think_s, service_s = 30, 20.0, 2.0
    found = crowd(population, think_s, lambda count: min(count, 4) / service_s)
    chance = random.Random(7)
    now_s, free, queue, finished, waited_s = 0.0, 4, list[float](), 0, 0.0
    due: list[tuple[float, int, float]] = []
    for _ in range(population):
        heappush(due, (chance.uniform(0, 2 * think_s), 0, 0.0))
    while finished < 60_000:
        now_s, kind, asked_s = heappop(due)
        if kind == 0:
            queue.append(now_s)
        else:
            free += 1
            finished += 1
            waited_s += now_s - asked_s
            heappush(due, (now_s + chance.uniform(0, 2 * think_s), 0, 0.0))
        while free and queue:
            free -= 1
            heappush(due, (now_s + chance.expovariate(1 / service_s), 1, queue.pop(0)))
    assert finished / now_s == pytest.approx(found.requests_s, rel=0.02)
    assert waited_s / finished == pytest.approx(found.response_s, rel=0.05)


@unhurried
@given(st.floats(0.02, 1.0), st.floats(0.5, 60.0), st.integers(1, 60), st.floats(0.5, 0.99))
def test_most_people_is_the_edge(share: float, hourly: float, most: int, inside: float) -> None:
    habits = Habits(share, hourly)

    def rate(count: int) -> float:
        return count / (10.0 + 0.2 * count)

    people = most_people(habits, rate, most, inside)

    def outside(company: int) -> float:
        return crowd(habits.active(company), habits.think_s, rate).beyond(most)

    assert people >= 1  # one person never finds another's request in flight
    assert outside(people) <= 1 - inside < outside(people + 1)


def test_impossible_habits_are_named() -> None:
    for share, hourly, named in (
        (0.0, 1.0, "share of 0.0"),
        (2.0, 1.0, "share of 2.0"),
        (0.5, 0.0, "0.0 req"),
    ):
        with pytest.raises(UsageError, match=named):
            Habits(share, hourly)
    with pytest.raises(UsageError, match="population of 0"):
        crowd(0, 1.0, float)
    with pytest.raises(UsageError, match="finished a second"):
        crowd(2, 1.0, lambda count: 0.0)
