"""The steps that a scenario makes add up to its requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.lengths import Fixed
from fullbore.scenario.mix import MOST_KINDS, step_mix
from fullbore.scenario.scenario import Limits, Scenario, load_scenario


def scenario(inputs: int, outputs: int) -> Scenario:
    return Scenario("s", Fixed(inputs), Fixed(outputs), ClosedLoop(1), Limits(1.0, 1.0))


@settings(max_examples=60)
@given(st.integers(1, 2000), st.integers(1, 500), st.integers(1, 200), st.sampled_from([16, 512]))
def test_every_mix_is_a_mix(inputs: int, outputs: int, concurrency: int, most: int) -> None:
    mix = step_mix(scenario(inputs, outputs), concurrency, most)
    assert 1 <= len(mix) <= MOST_KINDS
    assert sum(step.weight for step in mix) == pytest.approx(1)
    assert [step.weight for step in mix] == sorted((step.weight for step in mix), reverse=True)
    for step in mix:
        assert step.tokens >= 1
        assert step.tokens <= most * 1.06, "beyond what rounding to two digits adds"
        assert step.decodes <= step.sampled or step.decodes > 99
        assert all(tokens >= 1 and first >= 0 for tokens, first in step.chunks)
        assert (step.context > inputs * 0.9) == bool(step.decodes) or inputs < 10


@pytest.mark.parametrize("name", ["dialog", "code"])
@pytest.mark.parametrize("concurrency", [1, 4, 16, 64])
def test_tokens_of_prompts_and_answers_are_in_proportion(name: str, concurrency: int) -> None:
    """Over a request's life as many prompt tokens are computed, to each sampled one, as the scenario says."""
    loaded = load_scenario(name)
    mix = step_mix(loaded, concurrency)
    prompts = sum(step.weight * sum(tokens for tokens, _ in step.chunks) for step in mix)
    sampled = sum(step.weight * step.sampled for step in mix)
    wanted = loaded.input_tokens / loaded.output_tokens
    # One lifetime holds the replacements of all but those that end with it.
    assert prompts / sampled == pytest.approx(wanted, rel=0.25)
    assert sampled == pytest.approx(concurrency, rel=0.1)
    decodes = max(mix, key=lambda step: step.weight)
    assert decodes.decodes == pytest.approx(concurrency, rel=0.06)
    assert decodes.context == pytest.approx(loaded.input_tokens + loaded.output_tokens / 2, rel=0.1)


def test_more_in_flight_than_a_step_holds_is_what_it_holds() -> None:
    assert step_mix(scenario(10, 10), 10_000, 64) == step_mix(scenario(10, 10), 64, 64)
