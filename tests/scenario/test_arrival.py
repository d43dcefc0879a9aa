"""Arrivals: their mean rate, how they scatter, ramps, and what cannot be written."""

import itertools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.scenario.arrival import (
    Arrival,
    Burst,
    ClosedLoop,
    Constant,
    Gamma,
    OpenLoop,
    Poisson,
    Process,
    Replay,
    parse_open_loop,
    read_arrival,
)
from fullbore.scenario.fields import Table

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

PROCESSES: tuple[Process, ...] = (Poisson(), Constant(), Gamma(0.5), Gamma(4), Burst(8))


def processes() -> st.SearchStrategy[Process]:
    return st.one_of(
        st.sampled_from([Poisson(), Constant()]),
        st.floats(0.1, 20).map(Gamma),
        st.integers(1, 50).map(Burst),
    )


def rates() -> st.SearchStrategy[float]:
    return st.floats(0.01, 1000)


def open_loops() -> st.SearchStrategy[OpenLoop]:
    steady = st.builds(OpenLoop, rates(), processes())
    return steady | st.builds(OpenLoop, rates(), processes(), st.just(0.0) | rates(), st.floats(0.1, 100))


def arrivals() -> st.SearchStrategy[Arrival]:
    closed = st.builds(ClosedLoop, st.integers(1, 9999), st.just(0.0) | st.floats(0.1, 100))
    return st.one_of(open_loops(), closed, st.floats(0.01, 100).map(Replay))


def first(loop: OpenLoop, count: int, seed: object = 0) -> list[float]:
    return list(itertools.islice(loop.starts_s(random.Random(str(seed))), count))


@unhurried
@given(open_loops(), st.integers(0, 2**32))
def test_a_schedule_begins_at_0_never_goes_back_and_is_the_same_again(loop: OpenLoop, seed: int) -> None:
    starts_s = first(loop, 100, seed)
    assert starts_s[0] == 0
    assert starts_s == sorted(starts_s)
    assert starts_s == first(loop, 100, seed)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_the_rate_is_what_was_asked_and_gaps_scatter_as_the_process_says(process: Process) -> None:
    count = 20_001  # 2500 bursts and the one that ends the last gap
    starts_s = first(OpenLoop(4.0, process), count)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts_s)]
    assert (count - 1) / starts_s[-1] == pytest.approx(4.0, rel=0.05)
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps) / mean**2
    wanted = {Poisson(): 1, Constant(): 0, Gamma(0.5): 2, Gamma(4): 0.25, Burst(8): 7}[process]
    assert variance == pytest.approx(wanted, rel=0.1, abs=1e-9)


@unhurried
@given(open_loops(), st.floats(0, 1e4))
def test_the_time_of_an_expected_count_is_where_the_rate_adds_up_to_it(
    loop: OpenLoop, expected: float
) -> None:
    when_s = loop.when_s(expected)
    inside = min(when_s, loop.ramp_s)
    slope = (loop.rate_s - loop.from_rate_s) / loop.ramp_s if loop.ramp_s else 0.0
    integral = loop.from_rate_s * inside + slope / 2 * inside**2 + loop.rate_s * (when_s - inside)
    assert integral == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("start", "end"), [(0.0, 40.0), (40.0, 2.0), (10.0, 10.0)])
def test_a_ramp_of_poisson_arrivals_has_its_rate_at_every_moment(start: float, end: float) -> None:
    """Counts in tenths of the ramp, over many runs, against the integral of the rate there."""
    runs, ramp_s = 200, 10.0
    loop = OpenLoop(end, Poisson(), start, ramp_s)
    counts = [0] * 10
    for seed in range(runs):
        for start_s in itertools.takewhile(lambda s: s < ramp_s, loop.starts_s(random.Random(seed))):
            counts[int(start_s)] += 1
    counts[0] -= runs  # the first, which is always at 0
    for place, count in enumerate(counts):
        wanted = runs * (start + (end - start) * (place + 0.5) / 10)
        assert abs(count - wanted) < 5 * wanted**0.5 + 1, place


def test_a_burst_is_at_one_instant() -> None:
    assert first(OpenLoop(2.0, Burst(3)), 7) == [0, 0, 0, 1.5, 1.5, 1.5, 3.0]


@unhurried
@given(arrivals())
def test_a_table_says_everything(arrival: Arrival) -> None:
    assert read_arrival(Table("t", arrival.as_table())) == arrival
    assert arrival.describe()


@pytest.mark.parametrize(
    ("rate", "arrival", "wanted"),
    [
        ("2.5", "poisson", OpenLoop(2.5)),
        ("3", "constant", OpenLoop(3.0, Constant())),
        ("3", "gamma:0.5", OpenLoop(3.0, Gamma(0.5))),
        ("3", "burst:8", OpenLoop(3.0, Burst(8))),
        ("0.5-8:60", "poisson", OpenLoop(8.0, Poisson(), 0.5, 60.0)),
        ("0-8:60", "poisson", OpenLoop(8.0, Poisson(), 0.0, 60.0)),
    ],
)
def test_open_loops_on_the_command_line(rate: str, arrival: str, wanted: OpenLoop) -> None:
    assert parse_open_loop(rate, arrival) == wanted


@pytest.mark.parametrize(
    ("rate", "arrival", "named"),
    [
        ("fast", "poisson", "--rate fast: expected conversations a second such as 2.5"),
        ("0", "poisson", "rate = 0.0; expected conversations a second above 0"),
        ("nan", "poisson", "rate = nan"),
        ("1-2", "poisson", "FROM-TO:SECONDS"),
        ("1-2:0", "poisson", "ramp_seconds = 0.0"),
        ("1", "poison", "did you mean poisson?"),
        ("1", "gamma", "expected gamma:SHAPE, such as gamma:2"),
        ("1", "gamma:0", "shape = 0.0; expected a number above 0"),
        ("1", "gamma:x", "'x' is not a number"),
        ("1", "burst:2.5", "'2.5' is not a number"),
        ("1", "burst:0", "size = 0; expected a whole number from 1"),
        ("1", "constant:3", "expected constant"),
    ],
)
def test_what_cannot_be_an_open_loop_is_named(rate: str, arrival: str, named: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_open_loop(rate, arrival)
    assert named in str(error.value)


def test_schedules_are_the_same_on_every_machine_and_python() -> None:
    assert [[round(s, 6) for s in first(OpenLoop(1.0, each), 4)] for each in (Poisson(), Gamma(0.5))] == [
        [0.0, 0.448932, 2.820944, 3.271749],
        [0.0, 0.027443, 0.187712, 0.381624],
    ]
