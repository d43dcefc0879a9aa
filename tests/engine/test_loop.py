"""The loop: every request gets its own tokens whatever its neighbours do, and nothing they do ends it."""

import math
from collections import deque
from collections.abc import Iterable

import pytest
from fake_runner import FAILS, IS_NAN, VOCAB, FakeRunner, expected
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.engine.loop import Loop, unusable
from fullbore.engine.messages import (
    Abort,
    Command,
    Emitted,
    FlushCache,
    Hello,
    Outputs,
    Report,
    Sampling,
    Shutdown,
    Submit,
)
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Step
from fullbore.errors import IntegrityError
from fullbore.hardware.device import DeviceLostError

GREEDY = Sampling(temperature=0.0)


class ScriptedWire:
    """Hands out one batch of commands at each look; never waits."""

    def __init__(self, batches: Iterable[list[Command]] = ()) -> None:
        self.batches = deque(batches)
        self.reports: list[Outputs] = []
        self.waits: list[float] = []
        self.dropped = 3

    def receive(self, timeout_s: float) -> list[Command]:
        self.waits.append(timeout_s)
        return self.batches.popleft() if self.batches else []

    def send(self, report: Report) -> None:
        assert isinstance(report, Outputs)
        self.reports.append(report)

    def events(self, request: int) -> list[Emitted]:
        return [event for report in self.reports for event in report.events if event.request == request]


def scheduler(pages: int = 40, **changes: object) -> Scheduler:
    sizes: dict[str, object] = {
        "page_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 16,
        "max_queued": 64,
        "max_model_len": 100,
        "eos_token_ids": (),
    }
    return Scheduler(pages, **(sizes | changes))  # type: ignore[arg-type]


def serve(
    batches: list[list[Command]],
    runner: FakeRunner,
    lookahead: int = 0,
    pages: int = 40,
    caching: bool = True,
) -> ScriptedWire:
    """Run until all is answered, then check that every page came back."""
    wire = ScriptedWire(batches)
    policy = scheduler(pages, prefix_caching=caching)
    loop = Loop(policy, runner, wire, VOCAB, lookahead)
    for _ in range(5000):
        loop.turn()
        if not wire.batches and policy.idle and loop._quiet:
            break
    else:
        raise AssertionError("the loop does not come to rest")
    policy.check()
    assert policy.stats().pages_used == 0
    assert not runner.tokens
    return wire


prompts = st.lists(st.integers(0, 5), min_size=1, max_size=20)
kinds = st.sampled_from(["well", "well", "well", "fails", "nan", "abort"])


@given(
    st.lists(st.tuples(prompts, st.integers(1, 12), kinds, st.integers(0, 6)), min_size=1, max_size=9),
    st.integers(0, 1),
    st.sampled_from([9, 40]),
    st.booleans(),
)
@settings(max_examples=250, deadline=None)
def test_whatever_neighbours_do_a_request_gets_its_tokens(
    requests: list[tuple[list[int], int, str, int]], lookahead: int, pages: int, caching: bool
) -> None:
    """With failures, corruption, aborts, few pages (preemption), shared prefixes, a step of lookahead."""
    batches: list[list[Command]] = [[] for _ in range(12)]
    for number, (prompt, count, kind, turn) in enumerate(requests):
        tail = {"fails": [FAILS], "nan": [IS_NAN]}.get(kind, [])
        batches[turn].append(Submit(number, prompt + tail, count, GREEDY))
        if kind == "abort":
            batches[turn + 3].append(Abort(number))
    wire = serve(batches, FakeRunner(), lookahead, pages, caching)
    for number, (prompt, count, kind, _) in enumerate(requests):
        events = wire.events(number)
        assert [bool(event.finish) for event in events] == [False] * (len(events) - 1) + [True]
        tokens = [event.token for event in events if event.token >= 0]
        finish = events[-1].finish
        if kind == "fails":
            assert (tokens, finish) == ([], "error")
            assert events[-1].error == "the model failed on this request (ValueError)"
        elif kind == "nan":
            assert (tokens, finish, events[-1].error) == ([], "error", "logits not finite")
        elif finish == "abort":
            assert kind == "abort"
            assert tokens == expected(prompt, count)[: len(tokens)]
        else:
            assert (tokens, finish) == (expected(prompt, count), "length")


def test_a_failing_row_is_found_in_few_runs_and_the_others_lose_no_step() -> None:
    runner = FakeRunner()
    bad = Submit(99, [FAILS], 4, GREEDY)
    serve([[Submit(n, [n], 4, GREEDY) for n in range(7)] + [bad]], runner)
    first = [step for step in runner.steps if step.number == 1]
    assert len(first[0].rows) == 8
    assert len(first) <= 2 * math.log2(8) + 2  # the whole, two halves a level, the closing one
    rows_after = [len(step.rows) for step in runner.steps if step.number > 1 and step.rows]
    assert rows_after == [7, 7, 7]


def test_memory_that_suffices_for_half_a_step_is_no_error() -> None:
    def short_of_memory(step: Step) -> None:
        if len(step.rows) > 4:
            raise MemoryError

    wire = serve([[Submit(n, [n], 3, GREEDY) for n in range(8)]], FakeRunner(disturb=short_of_memory))
    for number in range(8):
        assert [event.token for event in wire.events(number)] == expected([number], 3)


def test_a_fault_that_passes_is_not_noticed_by_a_lone_request() -> None:
    faults = [RuntimeError("once")]

    def once(step: Step) -> None:
        if faults and step.rows:
            raise faults.pop()

    wire = serve([[Submit(1, [5], 3, GREEDY)]], FakeRunner(disturb=once))
    assert [event.token for event in wire.events(1)] == expected([5], 3)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_device_that_is_lost_ends_the_loop_and_no_request_is_blamed(lookahead: int) -> None:
    def lose(step: Step) -> None:
        if step.number == 3:
            raise DeviceLostError("the GPU refuses all work")

    wire = ScriptedWire([[Submit(1, [1], 50, GREEDY)]])
    with pytest.raises(DeviceLostError):
        Loop(scheduler(), FakeRunner(disturb=lose), wire, VOCAB, lookahead).run()
    assert not any(event.finish for event in wire.events(1))


def test_an_idle_loop_waits_for_commands_and_its_heart_beats() -> None:
    wire = ScriptedWire()
    loop = Loop(scheduler(), FakeRunner(), wire, VOCAB)
    for _ in range(3):
        loop.turn()
    assert len(wire.reports) == 1  # the first beat; the next is not due yet
    assert wire.reports[0].events == []
    assert wire.reports[0].stats.dropped_messages == 3
    assert all(0 < wait <= 0.5 for wait in wire.waits[1:])
    loop._beat -= 2.0
    loop.turn()
    assert len(wire.reports) == 2


def test_a_busy_loop_does_not_wait() -> None:
    wire = serve([[Submit(1, [1], 20, GREEDY)]], FakeRunner())
    steps = max(report.stats.steps for report in wire.reports)
    assert steps == 20
    assert wire.waits[: steps + 1] == [0.0] * (steps + 1)


def test_shutdown_ends_every_request_with_abort() -> None:
    wire = ScriptedWire([[Submit(1, [1], 50, GREEDY), Submit(2, [2], 50, GREEDY)], [], [Shutdown()]])
    Loop(scheduler(), FakeRunner(), wire, VOCAB).run()
    assert [wire.events(number)[-1].finish for number in (1, 2)] == ["abort", "abort"]


def test_drain_answers_what_is_there_and_then_ends() -> None:
    wire = ScriptedWire([[Submit(1, [1], 30, GREEDY)]])
    loop = Loop(scheduler(), FakeRunner(), wire, VOCAB)
    loop.turn()
    loop.drain()
    loop.run()
    assert [event.token for event in wire.events(1)] == expected([1], 30)


def test_lost_pages_are_noticed_when_idle_and_leave_the_loop() -> None:
    policy = scheduler()
    wire = ScriptedWire([[Submit(1, [1], 2, GREEDY)]])
    loop = Loop(policy, FakeRunner(), wire, VOCAB)
    policy.pool._free.pop()
    with pytest.raises(IntegrityError, match="lost"):
        loop.run()


def test_flush_forgets_prefixes_and_a_stray_hello_is_nothing() -> None:
    prompt = list(range(20))
    again = [Submit(2, prompt, 1, GREEDY)]
    quiet: list[list[Command]] = [[] for _ in range(5)]
    kept = serve([[Submit(1, prompt, 1, GREEDY)], *quiet, again], FakeRunner())
    assert kept.events(2)[0].cached > 0
    flushed = serve(
        [[Submit(1, prompt, 1, GREEDY)], *quiet, [FlushCache(), Hello(1, "x")], again], FakeRunner()
    )
    assert flushed.events(2)[0].cached == 0


def test_draws_without_a_seed_get_one_each_and_given_seeds_stay() -> None:
    runner = FakeRunner()
    serve([[Submit(1, [1], 1), Submit(2, [2], 1), Submit(3, [3], 1, Sampling(seed=5))]], runner)
    seeds = {start.request: start.sampling.seed for step in runner.steps for start in step.started}
    assert seeds[3] == 5
    assert None not in seeds.values()
    assert seeds[1] != seeds[2]


@pytest.mark.parametrize(
    ("submit", "names"),
    [
        (Submit(1, [VOCAB], 1), "token ids"),
        (Submit(1, [-1], 1), "token ids"),
        (Submit(1, [1], 1, Sampling(stop_token_ids=(VOCAB,))), "token ids"),
        (Submit(1, [1], 1, Sampling(logit_bias={VOCAB: 1.0})), "token ids"),
        (Submit(1, [1], 1, Sampling(logit_bias={1: math.nan})), "logit_bias"),
        (Submit(1, [1], 1, Sampling(temperature=math.nan)), "temperature"),
        (Submit(1, [1], 1, Sampling(temperature=-1.0)), "temperature"),
        (Submit(1, [1], 1, Sampling(top_p=0.0)), "top_p"),
        (Submit(1, [1], 1, Sampling(min_p=2.0)), "min_p"),
        (Submit(1, [1], 1, Sampling(repetition_penalty=0.0)), "repetition_penalty"),
        (Submit(1, [1], 1, Sampling(presence_penalty=math.inf)), "presence_penalty"),
        (Submit(1, [1], 1, Sampling(frequency_penalty=math.nan)), "frequency_penalty"),
    ],
)
def test_numbers_that_cannot_be_computed_never_reach_the_model(submit: Submit, names: str) -> None:
    assert names in unusable(submit, VOCAB)
    runner = FakeRunner()
    wire = serve([[submit]], runner)
    (event,) = wire.events(1)
    assert (event.finish, event.token) == ("error", -1)
    assert names in event.error
    assert not runner.steps
