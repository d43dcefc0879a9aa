"""What a reading is, by a clock that tests wind themselves."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.tune.pinning import pinned
from fullbore.tune.timing import ClockTimer, Effort, Rotation, Spread, compare, copies_needed


class Machine:
    """Calls that take as long as they are told to, by its own clock; drifts with every call."""

    def __init__(self, drift: float = 0.0) -> None:
        self.seconds, self.drift, self.order = 0.0, drift, ""

    def clock(self) -> float:
        return self.seconds

    def call(self, name: str, us: float) -> "Call":
        return Call(self, name, us)


class Call:
    def __init__(self, machine: Machine, name: str, us: float) -> None:
        self.machine, self.name, self.us = machine, name, us

    def __call__(self) -> None:
        self.machine.order += self.name
        self.machine.seconds += 1e-6 * self.us * (1 + self.machine.drift * len(self.machine.order))


@given(st.lists(st.floats(30, 1e5), min_size=1, max_size=4))
def test_a_steady_call_takes_what_it_takes(times: list[float]) -> None:
    machine = Machine()
    found = compare([machine.call("x", us) for us in times], Effort(1e9, 5, 5), ClockTimer(machine.clock))
    for spread, us in zip(found, times, strict=True):
        assert spread.median_us == pytest.approx(us)
        assert spread.low_us == pytest.approx(us)
        assert spread.repeats == 5


def test_candidates_take_turns_after_warming_up() -> None:
    machine = Machine()
    compare([machine.call("a", 50), machine.call("b", 90)], Effort(1e9, 4, 4), ClockTimer(machine.clock))
    assert machine.order.endswith("abababab")
    assert machine.order.count("a") > 4, "the first calls are not counted"


def test_a_drift_hits_all_alike() -> None:
    """One after the other, the second of two equals would seem 1.5 times slower."""
    machine = Machine(drift=0.05)
    first, second = compare(
        [machine.call(n, 50) for n in "ab"], Effort(1e9, 20, 20), ClockTimer(machine.clock)
    )
    assert second.median_us / first.median_us < 1.05


def test_a_call_shorter_than_the_clock_can_tell_is_repeated_in_one_reading() -> None:
    machine = Machine()
    (found,) = compare([machine.call("a", 0.5)], Effort(1e9, 3, 3), ClockTimer(machine.clock))
    assert found.median_us == pytest.approx(0.5)
    assert machine.order.count("a") >= 3 * 20


@given(st.floats(0, 0.1), st.integers(1, 10), st.integers(0, 30))
def test_effort_is_bounded_by_time_and_by_counts(seconds: float, least: int, more: int) -> None:
    machine = Machine()
    (found,) = compare(
        [machine.call("a", 1000)], Effort(seconds, least, least + more), ClockTimer(machine.clock)
    )
    assert least <= found.repeats <= least + more
    assert found.repeats <= max(least, seconds / 1e-3 + 1)


def test_a_hopeless_candidate_is_read_once() -> None:
    machine = Machine()
    calls = [machine.call("a", 1000), machine.call("b", 3900), machine.call("c", 4100)]
    found = compare(calls, Effort(1e9, 6, 6, hopeless=4.0), ClockTimer(machine.clock))
    assert [spread.repeats for spread in found] == [6, 6, 1]
    assert found[2].median_us == pytest.approx(4100)


def test_one_interruption_makes_no_candidate_hopeless() -> None:
    machine = Machine()
    slow_once = machine.call("a", 1000)

    def call() -> None:
        machine.seconds += 0.1 if "a" not in machine.order else 0.0
        slow_once()

    found = compare(
        [call, machine.call("b", 900)], Effort(1e9, 6, 6, hopeless=4.0), ClockTimer(machine.clock)
    )
    assert [spread.repeats for spread in found] == [6, 6]


@given(st.floats(1e3, 1e6))
def test_a_long_call_is_warmed_up_briefly(us: float) -> None:
    machine = Machine()
    compare([machine.call("a", us)], Effort(0.0, 1, 1), ClockTimer(machine.clock))
    assert 3 <= len(machine.order) <= 5
    assert len(machine.order) == 3 or us < 1e5


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=40))
def test_a_median_lies_between_its_quartiles(readings: list[float]) -> None:
    spread = Spread.of(readings)
    assert spread.low_us <= spread.median_us * 1.000001
    assert spread.median_us <= spread.high_us * 1.000001
    assert 1e6 * min(readings) <= spread.low_us
    assert spread.high_us <= 1e6 * max(readings)


def test_a_rotation_takes_every_copy_and_every_input_in_turn() -> None:
    seen: list[tuple[str, int]] = []
    call = Rotation(lambda copy, value: seen.append((copy, value)), ["a", "b", "c"], [(1,), (2,)])
    for _ in range(6):
        call()
    assert seen == [("a", 1), ("b", 2), ("c", 1), ("a", 2), ("b", 1), ("c", 2)]
    assert call.period == 3


@given(st.integers(1, 10**9), st.integers(1, 10**10), st.integers(1, 10**8), st.integers(1, 500))
def test_copies_are_as_cold_as_the_model_in_service(packed: int, model: int, cache: int, most: int) -> None:
    copies = copies_needed(packed, model, cache, most)
    assert 1 <= copies <= most
    if copies < most:
        assert copies * packed >= min(2 * cache, model), "past the cache, or as much as there is"
        assert (copies - 1) * packed < min(2 * cache, max(model, packed))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no threads")
def test_threads_are_pinned_and_let_go() -> None:
    before = os.sched_getaffinity(0)

    def within() -> None:
        with pinned() as done:
            assert done
            assert len(os.sched_getaffinity(0)) == 1
            raise KeyError

    with pytest.raises(KeyError):
        within()
    assert os.sched_getaffinity(0) == before
