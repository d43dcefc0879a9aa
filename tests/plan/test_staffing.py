"""People on a server that admits so many: against closed forms, and a simulation of single requests."""

import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.plan.people import Habits
from fullbore.plan.staffing import Service, most_people, servers_for, staffed


def simulated(active: int, think_s: float, offered: Service, events: int) -> tuple[float, float]:
    """(share that waits, share that is admitted within the slack) of a population, request by request."""
    chance = random.Random(11)
    now_s, thinking, admitted = 0.0, active, 0
    queue: deque[float] = deque()
    asked = waited = late = 0
    for _ in range(events):
        rate = offered.rate(admitted) if admitted else 0.0
        now_s += chance.expovariate(thinking / think_s + rate)
        if chance.random() * (thinking / think_s + rate) < rate:
            thinking += 1
            admitted -= 1
            if queue:
                late += now_s - queue.popleft() > offered.slack_s
                admitted += 1
        else:
            thinking -= 1
            asked += 1
            if admitted < offered.slots:
                admitted += 1
            else:
                waited += 1
                queue.append(now_s)
    return waited / asked, 1 - late / asked


@pytest.mark.parametrize("active", [14, 20])
def test_against_a_simulation_of_requests(active: int) -> None:
    offered = Service([0.1 * count / (1 + 0.05 * count) for count in range(1, 9)], 2.0)
    found = staffed(active, Habits(1.0, 180.0), offered)
    waits, inside = simulated(active, 20.0, offered, 300_000)
    assert found.waits == pytest.approx(waits, abs=0.015)
    assert found.inside == pytest.approx(inside, abs=0.015)


def test_one_slot_and_many_people_is_the_queue_m_m_1() -> None:
    """A request waits longer than t with probability load * exp(-(1 - load) * rate * t)."""
    load, rate, slack_s, people = 0.5, 1.0, 1.5, 20_000
    found = staffed(people, Habits(1.0, 3600 * load * rate / people), Service([rate], slack_s))
    assert found.waits == pytest.approx(load, rel=5e-3)
    late = load * math.exp(-(1 - load) * rate * slack_s)
    assert 1 - found.inside == pytest.approx(late, rel=1e-2)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.05, 1.0), st.floats(1.0, 60.0), st.integers(1, 40), st.floats(0.0, 20.0))
def test_most_people_is_the_edge_and_servers_carry_them(
    share: float, hourly: float, slots: int, slack_s: float
) -> None:
    offered = Service([count / (20.0 + count) for count in range(1, slots + 1)], slack_s)
    habits = Habits(share, hourly)
    most = most_people(habits, offered, 0.9)
    assert staffed(most, habits, offered).inside >= 0.9 > staffed(most + 1, habits, offered).inside
    for people in (1, most, most + 1, 3 * most + 1):
        servers = servers_for(people, habits, offered, 0.9)
        assert servers * most >= people > (servers - 1) * most


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 200), st.integers(1, 30), st.floats(0.0, 30.0))
def test_whoever_does_not_wait_is_inside(people: int, slots: int, slack_s: float) -> None:
    offered = Service([count / (20.0 + count) for count in range(1, slots + 1)], slack_s)
    found = staffed(people, Habits(1.0, 60.0), offered)
    assert 1 - found.waits <= found.inside + 1e-9 <= 1 + 2e-9
    if slack_s == 0:
        assert found.inside == pytest.approx(1 - found.waits)


def test_impossible_questions_are_named() -> None:
    offered = Service([1.0], 1.0)
    with pytest.raises(UsageError, match="0 people"):
        servers_for(0, Habits(0.1, 6.0), offered)
    with pytest.raises(UsageError, match="share of 1"):
        most_people(Habits(0.1, 6.0), offered, 1.0)
