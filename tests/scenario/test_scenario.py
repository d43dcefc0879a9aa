"""Scenarios: the published two, the stream they make, and files that cannot be used."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.lengths import Fixed
from fullbore.scenario.prompt import RandomTokens, RandomWords, Segment
from fullbore.scenario.scenario import Limits, Scenario, load_scenario, scenario_names

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test fails on time

DIALOG = load_scenario("dialog")


def prompts_of(scenario: Scenario, stream: str, count: int) -> list[tuple[Segment, ...]]:
    return [request.prompt for session in scenario.sessions(stream, count) for request in session.requests]


@pytest.mark.parametrize(
    ("name", "lengths", "limits", "concurrency"),
    [("dialog", (128, 1024), (2010, 93), 158), ("code", (512, 4096), (5530, 100), 140)],
)
def test_the_published_scenarios(
    name: str, lengths: tuple[int, int], limits: tuple[int, int], concurrency: int
) -> None:
    scenario = load_scenario(name)
    assert (scenario.input_tokens, scenario.output_tokens) == lengths
    assert (scenario.limits.ttft_ms, scenario.limits.tpot_ms) == limits
    assert scenario.concurrency == concurrency
    assert scenario.name == name


def test_every_file_of_the_package_loads() -> None:
    assert (
        {load_scenario(name).name for name in scenario_names()}
        == set(scenario_names())
        == {"chat", "code", "dialog", "peak"}
    )


@unhurried
@given(st.fractions(min_value=Fraction(1, 4096), max_value=1))
def test_scaling_keeps_lengths_usable_and_says_so(scale: Fraction) -> None:
    scenario = DIALOG.scaled(scale)
    assert scenario.input_tokens == max(1, round(128 * scale))
    assert scenario.output_tokens == max(2, round(1024 * scale))
    assert scenario.limits == DIALOG.limits
    assert (str(scale) in scenario.describe()) or scale == 1


def test_a_stream_is_the_same_for_the_same_seed_and_shares_no_prefix() -> None:
    def stream(seed: int, name: str) -> list[list[int]]:
        scenario = replace(DIALOG, seed=seed)
        return [RandomTokens(32_000).render(prompt) for prompt in prompts_of(scenario, name, 20)]

    assert stream(1, "a") == stream(1, "a")
    prompts = stream(1, "a") + stream(1, "b") + stream(2, "a")
    assert len({tuple(prompt[:16]) for prompt in prompts}) == 60
    assert {len(prompt) for prompt in prompts} == {128}


@unhurried
@given(st.integers(1, 200_000), st.integers(0, 2**64))
def test_tokens_are_inside_the_vocabulary_and_away_from_its_ends(vocab_size: int, seed: int) -> None:
    (prompt,) = prompts_of(replace(DIALOG, seed=seed), "x", 1)
    tokens = RandomTokens(vocab_size).render(prompt)
    assert all(vocab_size // 8 <= token < vocab_size for token in tokens)
    if vocab_size >= 8:
        assert max(tokens) < vocab_size - vocab_size // 8


def test_words_for_an_unknown_vocabulary() -> None:
    first, second = (RandomWords().render(prompt) for prompt in prompts_of(DIALOG, "x", 2))
    assert first != second
    assert len(first.split()) == 128


GOOD = """
name = "mine"
input_tokens = 3
output_tokens = 5
[arrival]
concurrency = 2
[limits]
ttft_ms = 1.5
tpot_ms = 2
percentile = "p99"
"""


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_scenario(str(path)) == Scenario(
        "mine", Fixed(3), Fixed(5), ClosedLoop(2), Limits(1.5, 2, "p99")
    )


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("input_tokens = 3", "input_tokens = 0", "input_tokens = 0"),
        ("input_tokens = 3", "input_tokens = true", "input_tokens = True"),
        ("input_tokens = 3", "input_tokens = 3.5", "input_tokens = 3.5"),
        ("input_tokens = 3", "", "input_tokens is missing"),
        ("output_tokens = 5", "output_token = 5", "did you mean output_tokens?"),
        ("output_tokens = 5", "output_tokens = 99999999999", "from 1 to"),
        ("concurrency = 2", "concurency = 2", "did you mean concurrency?"),
        ("concurrency = 2", "concurrency = -1", "concurrency = -1"),
        ("[arrival]\nconcurrency = 2", "arrival = 2", "expected a table [arrival]"),
        ("ttft_ms = 1.5", "ttft_ms = nan", "ttft_ms = nan"),
        ("ttft_ms = 1.5", "ttft_ms = 'fast'", "ttft_ms = 'fast'"),
        ('"p99"', '"p98"', "expected one of mean, p50"),
        ('name = "mine"', "name = 7", "name = 7"),
        ('name = "mine"', 'name = "mine"\nseed = "x"', "seed = 'x'"),
        ('name = "mine"', "name = mine", "is not TOML"),
        ("concurrency = 2", "rate = 0", "arrival.rate = 0; expected conversations a second above 0"),
        ("concurrency = 2", "rate = 1\nconcurrency = 2", "has concurrency and rate"),
        ("concurrency = 2", "", "none of its kinds; expected one of concurrency"),
        ("concurrency = 2", "speed = 1", "replays recorded times, and there are none"),
        ("concurrency = 2", "rate = 1\nprocess = 'gamma'", "arrival.shape is missing"),
        ("concurrency = 2", "rate = 1\nshape = 2", 'expected it only with process = "gamma"'),
        ("concurrency = 2", "rate = 1\nprocess = 'bursts'", "did you mean burst?"),
        ("concurrency = 2", "rate = 1\nramp_seconds = 2", "expected from_rate beside it"),
        ("concurrency = 2", "rate = 1\nfrom_rate = 2", "expected ramp_seconds beside it"),
        ("concurrency = 2", "concurrency = 2\nramp_seconds = -1", "seconds of at least 0"),
        ("concurrency = 2", "concurrency = 2\nrate_s = 1", "unknown arrival.rate_s"),
        ("= 3", "= { distribution = 'unifrom', low = 1, high = 2 }", "did you mean uniform?"),
        ("= 3", "= { low = 1, high = 2 }", "input_tokens.distribution is missing"),
        ("= 3", "= { distribution = 'uniform', low = 1, hihg = 2 }", "did you mean high?"),
        ("= 3", "= { distribution = 'choice', values = [] }", "values = []; expected a list of tokens"),
        ("= 3", "= { distribution = 'choice', values = [1, 0] }", "values = 0; expected a whole number"),
        (
            "= 3",
            "= { distribution = 'choice', values = [1], weights = [1, 2] }",
            "one weight for each of the 1",
        ),
        ("= 3", "= { distribution = 'choice', values = [1], weights = [0] }", "and one above it"),
        ("[limits]", "[prompt]\nshared = 5\n[limits]", "unknown prompt.shared"),
        ("[limits]", "[prompt]\ngroups = 5\n[limits]", "prompt.groups share nothing"),
        ("[limits]", "[prompt]\ntext = 'none.txt'\n[limits]", "none.txt cannot be read"),
        ("[limits]", "[prompt]\ntext = 5\n[limits]", "prompt.text = 5"),
        ("[limits]", "[conversation]\nturns = 2\n[limits]", "conversation.turn_tokens is missing"),
        ("[limits]", "[conversation]\nturns = 9999\nturn_tokens = 1\n[limits]", "turns = 9999"),
        (
            "[limits]",
            "[conversation]\nturns = 2\nturn_tokens = 1\nthink_seconds = -1\n[limits]",
            "think_seconds = -1; expected a number of seconds of at least 0",
        ),
        ("[limits]", "[conversations]\n[limits]", "did you mean conversation?"),
        ("[limits]", "[trace]\nfile = 'x'\n[limits]", "trace.format is missing"),
        ("[arrival]", "scaled_by = '1/0'\n[arrival]", "scaled_by = '1/0'; expected a fraction"),
        ("[arrival]", "scaled_by = '-1'\n[arrival]", "expected a fraction above 0"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_field(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError) as error:
        load_scenario(str(path))
    assert named in str(error.value)
    assert "bad.toml" in str(error.value) or "mine" in str(error.value)


def test_unknown_scenarios() -> None:
    with pytest.raises(UsageError, match="did you mean dialog"):
        load_scenario("dialogue")
    with pytest.raises(UsageError, match="cannot be read"):
        load_scenario("/nowhere/at/all.toml")
