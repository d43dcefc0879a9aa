"""Conversations, shared prompts and texts: what sessions hold, and that a report can carry a scenario."""

import json
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_arrival import arrivals
from test_lengths import lengths

from fullbore.errors import UsageError
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.conversation import ONE_TURN, PLAIN_PROMPTS, Conversation, Prompts
from fullbore.scenario.lengths import Choice, Fixed, Uniform
from fullbore.scenario.mix import step_mix
from fullbore.scenario.prompt import Segment
from fullbore.scenario.scenario import Limits, Scenario, load_scenario, scenario_from_dict
from fullbore.scenario.text import CHARACTERS_PER_TOKEN, TextFile

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    turns = draw(
        st.one_of(st.integers(2, 5).map(Fixed), st.just(Uniform(1, 4)), st.just(Choice((2, 9), (3, 1))))
    )
    talk = Conversation(turns, draw(lengths()), draw(st.just(Fixed(0)) | lengths()))
    return Scenario(
        name=draw(st.text(min_size=1, max_size=9)),
        input=draw(lengths()),
        output=draw(lengths()),
        arrival=draw(arrivals().filter(lambda arrival: arrival.describe()[0] != "a")),  # no replay
        limits=Limits(
            draw(st.floats(0.1, 1e5)), draw(st.floats(0.1, 1e5)), draw(st.sampled_from(["mean", "p99"]))
        ),
        seed=draw(st.integers(-(2**63), 2**63)),
        prompts=draw(st.just(PLAIN_PROMPTS) | st.builds(Prompts, st.integers(1, 99), st.integers(1, 9))),
        conversation=draw(st.just(ONE_TURN) | st.just(talk)),
    ).scaled(draw(st.sampled_from([Fraction(1), Fraction(1, 8), Fraction(3)])))


@unhurried
@given(scenarios())
def test_a_report_carries_the_whole_scenario(scenario: Scenario) -> None:
    again = scenario_from_dict(json.loads(json.dumps(scenario.as_dict())))
    assert replace(again, conversation=ONE_TURN) == replace(scenario, conversation=ONE_TURN)
    assert again.describe() == scenario.describe()
    assert again.as_dict() == scenario.as_dict()
    assert list(again.sessions("s", 5)) == list(scenario.sessions("s", 5))


@unhurried
@given(scenarios(), st.integers(1, 30))
def test_sessions_are_what_the_scenario_says(scenario: Scenario, count: int) -> None:
    sessions = list(scenario.sessions("s", count))
    assert [session.number for session in sessions] == list(range(count))
    requests = [request for session in sessions for request in session.requests]
    assert [request.number for request in requests] == list(range(len(requests)))
    closed = isinstance(scenario.arrival, ClosedLoop)
    starts_s = [session.start_s for session in sessions if session.start_s is not None]
    assert starts_s == sorted(starts_s)
    assert len(starts_s) == (0 if closed else count)
    own = [request.prompt[-1] for request in requests]
    assert len({segment.seed for segment in own}) == len(own), "nothing is shared but what is said to be"
    shared = {segment for request in requests for segment in request.prompt[:-1]}
    assert len(shared) <= scenario.prompts.groups
    for session in sessions:
        first, *later = session.requests
        assert 1 <= len(session.requests) <= scenario.conversation.turns.most
        assert first.think_s == 0
        assert first.input_tokens - first.prompt[-1].tokens == scenario.prompts.shared_tokens
        assert all(len(request.prompt) == 1 for request in later)
        assert all(1000 * request.think_s <= scenario.conversation.think_ms.most + 1e-6 for request in later)
        total = sum(request.input_tokens + request.output_tokens for request in session.requests)
        assert total <= scenario.most_tokens
    assert list(scenario.sessions("s", count)) == sessions
    assert not {s.seed for s in own} & {
        r.prompt[-1].seed for x in scenario.sessions("b", 9) for r in x.requests
    }


def test_groups_are_drawn_about_equally_often() -> None:
    scenario = Scenario("s", Fixed(1), Fixed(2), ClosedLoop(1), Limits(1, 1), prompts=Prompts(512, 4))
    counts = Counter(session.requests[0].prompt[0] for session in scenario.sessions("s", 2000))
    assert len(counts) == 4
    assert all(400 < count < 600 for count in counts.values())


def test_means_of_a_conversation_by_hand() -> None:
    talk = Conversation(Fixed(3), Fixed(10))
    scenario = Scenario(
        "s", Fixed(40), Fixed(100), ClosedLoop(1), Limits(1, 1), 0, Fraction(1), Prompts(512), talk
    )
    assert scenario.input_tokens == round((40 + 10 + 10) / 3)
    assert scenario.history_tokens == round(512 + (0 + 140 + 250) / 3)
    assert scenario.most_tokens == 512 + 40 + 100 + 2 * 110
    plain = replace(scenario, prompts=PLAIN_PROMPTS, conversation=ONE_TURN)
    assert (plain.input_tokens, plain.history_tokens, plain.most_tokens) == (40, 0, 140)


@unhurried
@given(scenarios(), st.integers(1, 50))
def test_every_scenario_makes_steps_with_its_history_before_them(
    scenario: Scenario, concurrency: int
) -> None:
    mix = step_mix(scenario, concurrency)
    assert math.isclose(sum(step.weight for step in mix), 1)
    for step in mix:
        assert not step.decodes or step.context >= scenario.history_tokens * 0.9
        assert all(first >= scenario.history_tokens * 0.9 for _, first in step.chunks)


BOOK = "It was a bright cold day in April, and the clocks were striking thirteen. " * 40


def test_text_comes_from_its_file_in_about_the_asked_length(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    text = TextFile.open(str(tmp_path / "book.txt"), 700)
    words = set(BOOK.split())
    for tokens in (1, 5, 7, 30, 200, 700):
        first, second = (text.render([Segment(seed, tokens)]) for seed in ("a", "b"))
        assert first == text.render([Segment("a", tokens)])
        assert first[:4] != second[:4] or tokens < 4, "windows begin differently, even at the same word"
        assert len(first) <= tokens * CHARACTERS_PER_TOKEN + 20
        assert len(first) >= tokens * CHARACTERS_PER_TOKEN * 0.6 or tokens < 30
        assert set(first.split()[1:]) <= words
    parts = [Segment("a", 30), Segment("c", 40)]
    assert text.render(parts) == " ".join(text.render([part]) for part in parts)


def test_a_scenario_with_a_text(tmp_path: Path) -> None:
    body = (
        'name = "t"\ninput_tokens = 500\noutput_tokens = 5\narrival = { concurrency = 1 }\n'
        'limits = { ttft_ms = 1, tpot_ms = 1 }\n[prompt]\ntext = "book.txt"\n'
    )
    path = tmp_path / "t.toml"
    path.write_text(body)
    (tmp_path / "book.txt").write_text(BOOK)
    material = load_scenario(str(path)).material()
    assert material is not None
    assert "bright cold day" in str(material.render([Segment("a", 100)]))
    assert "text of" in material.name
    assert load_scenario("dialog").material() is None, "then prompts are what the server takes best"
    path.write_text(body.replace("500", "5000"))
    with pytest.raises(UsageError, match=r"about 7[0-9]+ tokens long, and a prompt may need 5000"):
        load_scenario(str(path))
    (tmp_path / "book.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"not UTF-8 text .byte 3 is 0xe9.; convert it first"):
        load_scenario(str(path))
