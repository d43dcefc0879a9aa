"""The closed loop with the time of every token: the same figures as without them, and whole records."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.plan.closed_loop import run
from fullbore.plan.counted import Drawn, counted
from fullbore.scenario.metrics import figures
from fullbore.scenario.prompt import Request, Segment, Session
from fullbore.scenario.scenario import Limits
from fullbore.steptime.profiles import Policy
from fullbore.steptime.step import Step

LIMITS = Limits(1e9, 1e9)


def seconds(step: Step) -> float:
    """Grows with all that a step has, the context too."""
    return 0.01 + 0.001 * step.decodes + 1e-6 * step.context + 0.0005 * step.prefill_tokens


def sessions(pairs: list[tuple[int, int]]) -> list[Session]:
    return [
        Session(number, (Request(number, (Segment(f"p{number}", prompt),), answer),))
        for number, (prompt, answer) in enumerate(pairs)
    ]


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(1, 60), st.integers(2, 30)), min_size=1, max_size=25),
    concurrency=st.integers(1, 8),
    mixed=st.booleans(),
    polls=st.sampled_from([1, 5]),
    accepted=st.sampled_from([1.0, 1.8]),
    cache_tokens=st.sampled_from([90.0, 1e9]),
)
def test_it_is_the_closed_loop_and_every_record_is_whole(
    pairs: list[tuple[int, int]],
    concurrency: int,
    mixed: bool,
    polls: int,
    accepted: float,
    cache_tokens: float,
) -> None:
    policy = Policy(40, 5, mixed, polls=((1, polls),))
    others = (policy, seconds, 0.004, accepted, cache_tokens)
    seen = run(Drawn(tuple(pairs), concurrency), *others)
    records = counted(sessions(pairs), concurrency, *others)
    for record, (prompt, answer), ttft_s, tpot_s in zip(
        records, pairs, seen.ttft_s, seen.tpot_s, strict=True
    ):
        assert (record.ok, record.input_tokens, record.output_tokens) == (True, prompt, answer)
        assert record.ttft_s == pytest.approx(ttft_s, rel=1e-9, abs=1e-12)
        assert record.tpot_s == pytest.approx(tpot_s, rel=1e-6)
        assert record.chunks_s[-1] == pytest.approx(record.ended_s, rel=1e-9)
        assert all(before < after + 1e-12 for before, after in pairwise(record.chunks_s))
        if accepted == 1:
            assert record.chunks == answer
    got = figures(records, concurrency, LIMITS)
    assert got.duration_s == pytest.approx(seen.duration_s)
    assert got.output_tokens == seen.output_tokens
    if got.concurrency is not None:
        assert got.concurrency <= concurrency + 1e-9


def test_gaps_between_tokens_show_where_prompts_stood_in_the_way() -> None:
    """Two requests of which the second is admitted while the first decodes: decodes wait for its prompt."""
    records = counted(sessions([(10, 8), (10, 4), (10, 4)]), 2, Policy(100, 8, mixed=False), seconds)
    first = records[0].chunks_s
    gaps = [after - before for before, after in pairwise(first)]
    # The third request follows the second, whose three steps after its first token are over by then.
    stalled = max(range(len(gaps)), key=gaps.__getitem__)
    assert stalled == 3
    assert gaps[3] - gaps[2] == pytest.approx(seconds(Step(prefill_tokens=10)), rel=0.05)


def test_what_counts_cannot_say_is_refused() -> None:
    talk = Session(0, tuple(Request(turn, (Segment(f"t{turn}", 4),), 4) for turn in range(2)))
    with pytest.raises(UsageError, match="--scheduler fullbore"):
        counted([talk], 1, Policy(40, 5, mixed=True), seconds)
    with pytest.raises(UsageError, match="at least 2"):
        counted(sessions([(4, 1)]), 1, Policy(40, 5, mixed=True), seconds)
