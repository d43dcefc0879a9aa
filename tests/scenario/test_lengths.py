"""Distributions: the mean they state is the mean of what they draw, inside their bounds, at any scale."""

import math
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.scenario.fields import Table
from fullbore.scenario.length_values import parse_lengths, read_lengths
from fullbore.scenario.lengths import Bounded, Choice, Fixed, Lengths, LogNormal, Normal, Uniform

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

DRAWS = 2000


@st.composite
def bounded(draw: st.DrawFn) -> Bounded:
    low = draw(st.integers(1, 500))
    high = low + draw(st.integers(0, 500))
    mean = draw(st.floats(low, high))
    stdev = draw(st.floats(0.01, 2000))
    return draw(st.sampled_from([Normal, LogNormal]))(mean, stdev, low, high)


def uniforms() -> st.SearchStrategy[Uniform]:
    return st.tuples(st.integers(1, 999), st.integers(0, 999)).map(lambda pair: Uniform(pair[0], sum(pair)))


def choices() -> st.SearchStrategy[Choice]:
    weighted = st.tuples(st.integers(1, 5000), st.floats(0.01, 100))
    return st.lists(weighted, min_size=1, max_size=8).map(
        lambda pairs: Choice(tuple(value for value, _ in pairs), tuple(weight for _, weight in pairs))
    )


def lengths() -> st.SearchStrategy[Lengths]:
    return st.one_of(st.integers(1, 5000).map(Fixed), uniforms(), choices(), bounded())


def least_of(each: Lengths) -> int:
    return (
        each.tokens if isinstance(each, Fixed) else min(each.values) if isinstance(each, Choice) else each.low
    )


@unhurried
@given(lengths(), st.integers(0, 2**32))
def test_what_is_drawn_has_the_stated_mean_and_bounds(each: Lengths, seed: int) -> None:
    chance = random.Random(seed)
    drawn = [each.draw(chance) for _ in range(DRAWS)]
    assert all(isinstance(value, int) and least_of(each) <= value <= each.most for value in drawn)
    mean = sum(drawn) / DRAWS
    # Six standard errors, and a little for values so rare that none was drawn.
    deviation = math.sqrt(sum((value - mean) ** 2 for value in drawn) / DRAWS)
    assert (
        abs(mean - each.mean) <= 6 * deviation / math.sqrt(DRAWS) + (each.most - least_of(each)) * 0.02 + 1e-9
    )
    chance = random.Random(seed)
    assert drawn == [each.draw(chance) for _ in range(DRAWS)]


@unhurried
@given(bounded())
def test_the_mean_of_a_bounded_curve_is_the_sum_over_its_numbers(each: Bounded) -> None:
    """By its definition: each whole number weighs what the curve has within half of it."""
    weights = {n: each._below(n + 0.5) - each._below(n - 0.5) for n in range(each.low, each.high + 1)}
    total = math.fsum(weights.values())
    if total > 1e-6:
        wanted = math.fsum(number * weight for number, weight in weights.items()) / total
        assert each.mean == pytest.approx(wanted, rel=1e-6)


@unhurried
@given(lengths(), st.fractions(Fraction(1, 10_000), 4), st.integers(1, 2))
def test_scaling_keeps_bounds_and_the_shape(each: Lengths, scale: Fraction, least: int) -> None:
    scaled = each.scaled(scale, least)
    assert type(scaled) is type(each)
    assert least <= scaled.draw(random.Random(0)) <= scaled.most == max(least, round(each.most * scale))
    assert least_of(scaled) == max(least, round(least_of(each) * scale))
    assert least <= scaled.mean <= scaled.most


@unhurried
@given(lengths())
def test_a_table_says_everything(each: Lengths) -> None:
    assert read_lengths(Table("t", {"tokens": each.as_table()}), "tokens") == each
    assert each.describe()


@unhurried
@given(lengths())
def test_seconds_are_kept_to_the_millisecond(each: Lengths) -> None:
    table = Table("t", {"think": each.as_table(1000)})
    again = read_lengths(table, "think", unit=1000, least=0, what="seconds")
    assert (again.most, again.mean) == (each.most, pytest.approx(each.mean, rel=1e-9))


def test_a_narrow_curve_and_one_beyond_its_bounds_are_still_drawn() -> None:
    for each, value in (
        (Normal(7.0, 0.001, 5, 9), 7),
        (LogNormal(0.1, 0.001, 2, 9), 2),
        (Normal(99, 1, 2, 9), 9),
    ):
        assert {each.draw(random.Random(seed)) for seed in range(50)} == {value}
        assert each.mean == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("128", Fixed(128)),
        ("64-192", Uniform(64, 192)),
        ("128,512", Choice((128, 512), (1.0, 1.0))),
        ("lognormal:mean=512,stdev=600.5,low=16,high=4096", LogNormal(512, 600.5, 16, 4096)),
        ("normal:mean=9,stdev=1,low=1,high=20", Normal(9, 1, 1, 20)),
    ],
)
def test_lengths_on_the_command_line(text: str, wanted: Lengths) -> None:
    assert parse_lengths(text) == wanted


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0", "tokens = 0; expected a whole number from 1"),
        ("-5", "tokens = -5"),
        ("", "expected tokens such as 128"),
        ("many", "expected tokens such as 128"),
        ("1-2-3", "expected tokens such as 128"),
        ("9-3", "high = 3; expected at least low, 9"),
        ("logormal:mean=1", "did you mean lognormal?"),
        ("normal:mean=9,stdev=1,low=1", "high is missing"),
        ("normal:mean=9,stddev=1,low=1,high=9", "did you mean stdev?"),
        ("normal:mean=9,stdev=0,low=1,high=9", "stdev = 0; expected tokens above 0"),
        ("normal:mean=90,stdev=1,low=1,high=9", "mean = 90; expected tokens from low to high"),
        ("normal:mean=x,stdev=1,low=1,high=9", "mean = 'x'"),
        ("file:", "the name of a file"),
        ("file:/nowhere.txt", "cannot be read"),
    ],
)
def test_what_cannot_be_lengths_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_lengths(text, "--output")
    assert named in str(error.value)
    assert str(error.value).startswith(f"--output {text}")


def test_a_file_of_lengths_is_drawn_as_often_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("# tokens\n5\n\n7\n5\n5\n")
    (tmp_path / "two.csv").write_text("input,output\n3, 10\n3, 20\n")
    assert parse_lengths(f"file:{tmp_path / 'one.txt'}") == Choice((5, 7), (3.0, 1.0))
    assert parse_lengths(f"file:{tmp_path / 'two.csv'},column=output") == Choice((10, 20), (1.0, 1.0))


@pytest.mark.parametrize(
    ("content", "column", "named"),
    [
        (b"5\nsix\n", "", "l.csv:2: length = 'six'"),
        (b"5\n0\n", "", "l.csv:2: length = 0"),
        (b"", "", "a file with at least one length"),
        (b"a,b\n1,2\n3\n", ",column=b", "l.csv:3: length = ''"),
        (b"a,b\n1,2\n", ",column=c", "expected one of a, b"),
        (b"5\n\xff\n", "", "byte 2 is 0xff"),
    ],
)
def test_a_file_of_lengths_that_cannot_be_used(
    tmp_path: Path, content: bytes, column: str, named: str
) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(UsageError) as error:
        parse_lengths(f"file:{tmp_path / 'l.csv'}{column}")
    assert named in str(error.value)


def test_draws_are_the_same_on_every_machine_and_python() -> None:
    """A seed in a report must make the same load years later: these were drawn once and written down."""
    chance = random.Random("lengths 0/a/0")
    kinds = (
        Uniform(1, 1000),
        Choice((1, 2, 3), (1, 2, 3)),
        Normal(500, 100, 1, 999),
        LogNormal(500, 600, 1, 9999),
    )
    assert [each.draw(chance) for each in kinds for _ in range(3)] == [
        630,
        970,
        402,
        1,
        3,
        2,
        694,
        586,
        481,
        212,
        388,
        352,
    ]
