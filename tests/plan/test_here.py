"""The step time of a model on this machine, from a table whose every time is known."""

import pytest
from known_times import HOST_US, OPTIONS, PEAKS, THEN, records, table

from fullbore.hardware.ceiling import Ceiling
from fullbore.ops.times import Times
from fullbore.plan.here import here
from fullbore.steptime.step import HOST, Step
from fullbore.steptime.table import TimesMissing


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_operators_take_what_the_table_says(slower: float) -> None:
    times = here(OPTIONS, THEN, table(slower), HOST_US).step_time
    for step in (Step.of([50] * 3), Step.of([300], [(40, 0)]), Step.of([], [(100, 20)])):
        terms = dict(times.of(step).terms_s)
        assert terms.pop(HOST) > 0
        assert sum(terms.values()) == pytest.approx(slower * times.floor_s(step), rel=0.01)
        assert sum(times.operators_s(step).values()) == pytest.approx(sum(terms.values()))


def test_slower_memory_makes_slower_steps() -> None:
    step, known = Step.of([50] * 3), table(1.5)
    fast, slow = (here(OPTIONS, Ceiling(read, PEAKS), known, HOST_US).step_time for read in (2e10, 1e10))
    assert slow.floor_s(step) > fast.floor_s(step)
    assert sum(slow.of(step).terms_s.values()) > 1.2 * fast.floor_s(step)


def test_without_times_it_says_how_to_get_some() -> None:
    with pytest.raises(TimesMissing, match=r"add_rms_norm by .*route by .*fullbore tune"):
        here(OPTIONS, THEN, Times(), HOST_US)


def test_times_of_another_shape_are_no_times_of_this_one() -> None:
    """A selection may rest on relatives; a plan may not."""
    others = [each for each in records(1.0) if each.subject.operator != "linear"]
    with pytest.raises(TimesMissing, match="linear by"):
        here(OPTIONS, THEN, Times(others), HOST_US)
