"""Every request says what it says alone; no page is lost, shared wrongly or freed twice, whatever happens.

``scheduler_world.World`` checks after every move; here are the histories: thousands drawn from a number, and
a state machine that hypothesis can shrink.
"""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from scheduler_world import STOP, Shape, World, random_history

from fullbore.engine.messages import Sampling

HISTORIES = 2400
PARTS = 16


@pytest.mark.parametrize("part", range(PARTS))
def test_random_histories(part: int) -> None:
    preemptions = hits = 0
    for seed in range(part, HISTORIES, PARTS):
        try:
            stats = random_history(seed).scheduler.stats()
        except Exception as error:
            raise AssertionError(f"random_history({seed}): {error}") from error
        preemptions += stats.preemptions
        hits += stats.prefix_hits
    # Histories in which nothing is scarce and nothing is shared would prove little.
    assert preemptions > 50
    assert hits > 200


def test_the_same_history_gives_the_same_steps() -> None:
    for seed in range(20):
        assert random_history(seed).steps == random_history(seed).steps


class SchedulerMachine(RuleBasedStateMachine):
    world: World

    @initialize(
        pages=st.integers(2, 12),
        page_size=st.integers(1, 4),
        seqs=st.integers(1, 4),
        extra=st.integers(0, 6),
        lookahead=st.integers(0, 1),
        caching=st.booleans(),
        vocab=st.sampled_from((3, 60)),
    )
    def start(
        self, pages: int, page_size: int, seqs: int, extra: int, lookahead: int, caching: bool, vocab: int
    ) -> None:
        self.world = World(Shape(pages, page_size, seqs, seqs + extra, 4, 20, caching, lookahead, vocab))

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12),
        max_tokens=st.integers(1, 10),
        seed=st.sampled_from((None, 1)),
        ignore_eos=st.booleans(),
        stop=st.booleans(),
        salt=st.sampled_from(("", "", "tenant")),
    )
    def submit(
        self, prompt: list[int], max_tokens: int, seed: int | None, ignore_eos: bool, stop: bool, salt: str
    ) -> None:
        sampling = Sampling(seed=seed, ignore_eos=ignore_eos, stop_token_ids=(STOP,) if stop else ())
        self.world.submit(prompt, max_tokens, sampling, salt)

    @rule(times=st.integers(1, 6))
    def turn(self, times: int) -> None:
        """The loop, as it runs in the engine."""
        for _ in range(times):
            step = self.world.plan()
            if step is None or len(self.world.launched) > self.world.shape.lookahead:
                self.world.commit()

    @rule()
    def plan(self) -> None:
        self.world.plan()

    @rule()
    def commit(self) -> None:
        self.world.commit()

    @rule(which=st.integers(0, 3))
    def commit_corrupted(self, which: int) -> None:
        self.world.commit(which)

    @rule(back=st.integers(0, 5))
    def abort(self, back: int) -> None:
        self.world.abort(self.world.numbers - back)

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule()
    def crash(self) -> None:
        self.world.crash()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


SchedulerMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestScheduler = SchedulerMachine.TestCase


def test_a_crowd_shares_one_prompt_and_all_finish_under_pressure() -> None:
    """Nine tenths of the cache is one shared prompt; its users still come through, oldest first."""
    for lookahead in (0, 1):
        world = World(Shape(14, 2, 4, 8, 16, 28, True, lookahead, 60))
        rng = random.Random(lookahead)
        prompt = [rng.randrange(3) for _ in range(17)]
        numbers = [world.submit(prompt, 11, Sampling(seed=seed, ignore_eos=True)) for seed in range(1, 9)]
        world.drain()
        assert list(world.done) == sorted(numbers)
        assert world.scheduler.stats().prefix_hits > 0
