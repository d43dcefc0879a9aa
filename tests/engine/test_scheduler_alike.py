"""``commit_alike`` is ``commit`` where all tokens are alike; and the columns of decodes are their rows."""

import random

import pytest

from fullbore.engine.messages import Sampling, Submit
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Decodes, Row, Sampled, Step
from fullbore.errors import IntegrityError

EOS = 0
TOKENS = (EOS, 5, 5, 5, 5, 5, 5)  # one that ends requests comes now and then


def drive(seed: int, alike: bool) -> tuple[list[Step], list[tuple[int, str]], list[object]]:
    """(steps, ends of requests in order, stats after each move) of a random history."""
    chance = random.Random(seed)
    size, lookahead = chance.randint(1, 4), chance.randint(0, 1)
    seqs, pages = chance.randint(1, 5), chance.randint(6, 20)
    scheduler = Scheduler(
        pages, size, seqs, seqs + chance.randint(0, 8), 8, 40, (EOS,), chance.random() < 0.8
    )
    steps: list[Step] = []
    ends: list[tuple[int, str]] = []
    stats: list[object] = []
    flying: list[Step] = []
    for number in range(120):
        move = chance.random()
        if move < 0.2:
            prompt = [chance.randrange(3) for _ in range(chance.randint(1, 12))]
            wish = Sampling(ignore_eos=chance.random() < 0.5)
            scheduler.submit(Submit(number, prompt, chance.randint(1, 12), wish))
        elif move < 0.25:
            event = scheduler.abort(chance.randrange(number + 1))
            ends += [(event.request, event.finish)] if event else []
        elif move < 0.6 and len(flying) <= lookahead:
            step = scheduler.plan()
            if step is not None:
                steps.append(step)
                flying.append(step)
        elif flying:
            step, result = flying.pop(0), Sampled(chance.choice(TOKENS))
            if alike:
                events = scheduler.commit_alike(step, result)
            else:
                events = scheduler.commit(step, {row.request: result for row in step.rows if row.samples})
            ends += [(event.request, event.finish) for event in events if event.finish]
        scheduler.check()
        stats.append(scheduler.stats())
    return steps, ends, stats


def test_both_ways_to_commit_end_in_the_same_place() -> None:
    ended = 0
    for seed in range(300):
        apart, alike = drive(seed, False), drive(seed, True)
        assert apart == alike, f"history {seed}"
        ended += sum(finish != "abort" for _, finish in alike[1])
    assert ended > 300  # or the histories would be too short to say anything


def test_rows_by_column() -> None:
    decodes = Decodes((7, 9), (3, -2), 10, ((1, 2), (4,)))
    assert decodes.rows() == (Row(7, 13, 1, (1, 2), True), Row(9, 8, 1, (4,), True))
    assert decodes.tokens_before == 21
    step = Step(1, (Row(3, 0, 5, (6,), False),), decodes=decodes)
    assert step.rows == (*decodes.rows(), *step.others)
    assert step.tokens == 7


def test_a_step_out_of_turn_is_refused() -> None:
    scheduler = Scheduler(8, 2, 2, 4, 2, 16, ())
    scheduler.submit(Submit(1, [1, 2], 3))
    first, second = scheduler.plan(), scheduler.plan()
    assert first is not None
    assert second is not None
    with pytest.raises(IntegrityError, match="step 2 was committed, expected step 1"):
        scheduler.commit_alike(second, Sampled(5))
