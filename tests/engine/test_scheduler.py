"""What the scheduler promises, one plain case at a time (random ones: test_scheduler_histories.py)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import EOS, STOP, Shape, World

from fullbore.engine.messages import Emitted, Sampling, Submit, TokenLogprob
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Sampled, Step
from fullbore.errors import IntegrityError, UsageError

LONG = Sampling(ignore_eos=True)
WORD = 5  # a token that ends nothing


def scheduler(
    pages: int = 64,
    page_size: int = 4,
    seqs: int = 4,
    tokens: int = 16,
    queued: int = 8,
    caching: bool = True,
) -> Scheduler:
    return Scheduler(pages, page_size, seqs, tokens, queued, 256, (EOS,), caching)


def prompt(count: int, start: int = 10) -> list[int]:
    return list(range(start, start + count))


def planned(s: Scheduler) -> Step:
    step = s.plan()
    assert step is not None
    return step


def say(step: Step, token: int = WORD) -> dict[int, Sampled]:
    return {row.request: Sampled(token) for row in step.rows if row.samples}


def turn(s: Scheduler, token: int = WORD) -> list[Emitted]:
    step = planned(s)
    events = s.commit(step, say(step, token))
    s.check()
    return events


def shape(step: Step) -> list[tuple[int, int, int]]:
    return [(row.request, row.first, row.count) for row in step.rows]


# what a step is made of


def test_a_long_prompt_comes_in_chunks_beside_the_decodes() -> None:
    s = scheduler(tokens=8)
    assert s.submit(Submit(1, prompt(3), 20, LONG)) is None
    turn(s)
    s.submit(Submit(2, prompt(20, 50), 20, LONG))
    steps = []
    for _ in range(4):
        steps.append(planned(s))
        s.commit(steps[-1], say(steps[-1]))
    assert [shape(step) for step in steps] == [
        [(1, 3, 1), (2, 0, 7)],
        [(1, 4, 1), (2, 7, 7)],
        [(1, 5, 1), (2, 14, 6)],
        [(1, 6, 1), (2, 20, 1)],
    ]
    assert [[row.samples for row in step.rows] for step in steps] == [
        [True, False],
        [True, False],
        [True] * 2,
        [True] * 2,
    ]


def test_rows_of_one_token_come_first_even_when_their_request_is_younger() -> None:
    s = scheduler(tokens=8, seqs=3)
    s.submit(Submit(1, prompt(20), 4, LONG))
    turn(s)
    turn(s)
    s.submit(Submit(2, prompt(1, 90), 4, LONG))
    step = planned(s)
    assert shape(step) == [(2, 0, 1), (1, 16, 4)]


def test_every_decode_is_in_every_step_whatever_prompts_wait() -> None:
    s = scheduler(tokens=4, seqs=4)
    for number in (1, 2, 3):
        s.submit(Submit(number, prompt(1, number), 30, LONG))
    turn(s)
    s.submit(Submit(4, prompt(10, 100), 30, LONG))
    for chunk in range(10):
        step = planned(s)
        assert shape(step)[:3] == [(n, 1 + chunk, 1) for n in (1, 2, 3)]
        assert step.tokens == 4
        s.commit(step, say(step))


def test_who_came_first_is_served_first() -> None:
    s = scheduler(seqs=2)
    for number in (5, 3, 4):
        s.submit(Submit(number, prompt(2, number * 10), 1, LONG))
    assert [event.request for event in turn(s)] == [5, 3]
    assert [event.request for event in turn(s)] == [4]


def test_planning_ahead_needs_no_token_and_never_passes_max_tokens() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 2, LONG))
    first, second = planned(s), planned(s)
    assert (shape(first), shape(second)) == ([(1, 0, 3)], [(1, 3, 1)])
    assert s.commit(first, {1: Sampled(WORD)}) == [Emitted(1, WORD)]
    assert s.plan() is None
    assert s.commit(second, {1: Sampled(WORD)}) == [Emitted(1, WORD, "length")]
    assert planned(s).ended == (1,)


def test_no_more_than_one_step_is_planned_ahead_and_commits_are_in_order() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 9, LONG))
    first, second = planned(s), planned(s)
    with pytest.raises(IntegrityError, match="2 steps wait"):
        s.plan()
    with pytest.raises(IntegrityError, match="step 2 was committed, expected step 1"):
        s.commit(second, {})
    s.commit(first, say(first))
    with pytest.raises(IntegrityError, match="step 1 was committed, expected step 2"):
        s.commit(first, {})


# how a request ends


@pytest.mark.parametrize(
    ("sampling", "token", "finish"),
    [
        (Sampling(), EOS, "stop"),
        (LONG, EOS, ""),
        (Sampling(stop_token_ids=(STOP,)), STOP, "stop"),
        (Sampling(stop_token_ids=(STOP,), ignore_eos=True), STOP, "stop"),
        (Sampling(), WORD, ""),
    ],
)
def test_what_stops_a_request(sampling: Sampling, token: int, finish: str) -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 9, sampling))
    assert turn(s, token) == [Emitted(1, token, finish)]


def test_a_stop_at_the_last_token_is_a_stop() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 1))
    assert turn(s, EOS) == [Emitted(1, EOS, "stop")]


@pytest.mark.parametrize("end", ["stop", "abort", "error"])
def test_an_end_found_late_costs_one_row_and_frees_pages_after_it(end: str) -> None:
    s = scheduler(caching=False)
    s.submit(Submit(1, prompt(3), 9))
    first, second = planned(s), planned(s)
    if end == "stop":
        assert s.commit(first, {1: Sampled(EOS)})[0].finish == "stop"
    else:
        s.commit(first, say(first))
        event = s.abort(1) if end == "abort" else s.fail([1], "broken")[0]
        assert event == Emitted(1, -1, end, error="broken" if end == "error" else "")
    assert s.stats().pages_used == 1
    third = planned(s)
    assert (third.rows, third.ended) == ((), (1,))
    assert s.commit(second, {1: Sampled(WORD)}) == []
    assert s.stats().pages_used == 0
    assert s.commit(third, {}) == []
    assert s.idle


def test_a_request_aborted_before_it_ran_is_unknown_to_the_runner() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 9))
    assert s.abort(1) == Emitted(1, -1, "abort")
    assert s.abort(1) is None
    assert s.idle
    assert s.plan() is None


def test_a_failed_row_ends_its_request_alone_and_leaves_nothing_in_the_tree() -> None:
    s = scheduler(tokens=8)
    s.submit(Submit(1, prompt(12), 9, LONG))
    turn(s)
    assert len(s.tree.own) == 2
    s.submit(Submit(2, prompt(4, 90), 9, LONG))
    step = planned(s)
    events = s.commit(step, {1: Sampled(-1, error="logits not finite"), 2: Sampled(WORD)})
    assert events == [Emitted(1, -1, "error", error="logits not finite"), Emitted(2, WORD)]
    assert len(s.tree.own) == 1  # request 2's
    assert s.stats().corrupted == 1


def test_a_row_without_its_token_is_an_error_of_its_request() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 9))
    assert s.commit(planned(s), {}) == [Emitted(1, -1, "error", error="the step gave no token")]


def test_end_all_ends_the_running_and_the_waiting() -> None:
    s = scheduler(seqs=1)
    for number in (1, 2):
        s.submit(Submit(number, prompt(3), 9, LONG))
    turn(s)
    assert s.end_all("abort", "bye") == [Emitted(n, -1, "abort", error="bye") for n in (1, 2)]
    assert planned(s).ended == (1,)


def test_a_number_used_again_at_once_is_a_new_request() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 1, LONG))
    turn(s)
    assert s.submit(Submit(1, prompt(5, 60), 1, LONG)) is None
    step = planned(s)
    assert (step.rows, step.ended) == ((), (1,))
    s.commit(step, {})
    step = planned(s)
    assert [started.prompt for started in step.started] == [tuple(prompt(5, 60))]


def test_logprobs_go_through() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(3), 9))
    events = s.commit(planned(s), {1: Sampled(WORD, -1.5, ((7, -0.5), (WORD, -1.5)))})
    assert events == [Emitted(1, WORD, "", -1.5, [TokenLogprob(7, -0.5), TokenLogprob(WORD, -1.5)])]


# prefixes


@pytest.mark.parametrize(("length", "cached"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8)])
def test_full_pages_are_found_again_but_never_the_whole_prompt(length: int, cached: int) -> None:
    s = scheduler()
    for number in (1, 2):
        s.submit(Submit(number, prompt(length), 2, LONG))
        first, second = turn(s), turn(s)
        assert first[0].cached == (cached if number == 2 else 0)
        assert second[0].cached == 0
    stats = s.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (2 * length, cached)


def test_a_running_request_shares_what_it_computed_so_far() -> None:
    s = scheduler(tokens=9)
    s.submit(Submit(1, prompt(13), 9, LONG))
    turn(s)
    s.submit(Submit(2, prompt(13), 9, LONG))
    step = planned(s)
    assert shape(step) == [(1, 9, 4), (2, 8, 5)]
    assert step.rows[0].pages[:2] == step.rows[1].pages[:2]


def test_the_answer_is_part_of_the_prefix_of_the_next_turn() -> None:
    s = scheduler()
    s.submit(Submit(1, prompt(6), 3, LONG))
    for _ in range(3):
        turn(s)
    s.submit(Submit(2, [*prompt(6), WORD, WORD, WORD, 99], 1, LONG))
    turn(s)  # the runner hears of the end of 1, too
    assert s.stats().prefix_hits == 8


def test_one_prompt_computed_twice_at_once_is_kept_once() -> None:
    s = scheduler(seqs=2)
    for number in (1, 2):
        s.submit(Submit(number, prompt(8), 9, LONG))
    step = planned(s)
    assert not set(step.rows[0].pages) & set(step.rows[1].pages)
    ahead = planned(s)
    s.commit(step, say(step))
    s.check()
    assert s.stats().pages_used == 6  # the duplicates are still read by the step ahead
    s.commit(ahead, say(ahead))
    s.check()
    assert s.stats().pages_used == 4
    pages = [row.pages for row in planned(s).rows]
    assert pages[0][:2] == pages[1][:2]


@pytest.mark.parametrize("other", ["salt", "off", "flush"])
def test_what_is_not_shared(other: str) -> None:
    s = scheduler(caching=other != "off")
    s.submit(Submit(1, prompt(9), 1, LONG, "a"))
    turn(s)
    if other == "flush":
        assert s.flush() == 2
    s.submit(Submit(2, prompt(9), 1, LONG, "b" if other == "salt" else "a"))
    assert turn(s)[0].cached == 0
    assert s.stats().prefix_hits == 0


def test_old_prefixes_give_way_to_requests() -> None:
    s = scheduler(pages=4)
    for number, start in enumerate((10, 40, 70), 1):
        s.submit(Submit(number, prompt(12, start), 2, LONG))
        turn(s)
        turn(s)
    assert s.stats().preemptions == 0


# page pressure


@pytest.mark.parametrize("lookahead", [0, 1])
def test_the_youngest_gives_way_and_loses_no_token(lookahead: int) -> None:
    world = World(
        Shape(pages=5, page_size=2, max_num_seqs=3, max_model_len=11, lookahead=lookahead, vocab=60)
    )
    numbers = [world.submit([seed], 9, Sampling(seed=seed, ignore_eos=True)) for seed in (1, 2)]
    world.drain()
    stats = world.scheduler.stats()
    assert stats.preemptions > 0
    assert list(world.done) == numbers
    assert stats.generated_tokens == 18


def test_a_request_that_fills_the_cache_runs_alone() -> None:
    s = scheduler(pages=4, page_size=2)
    s.submit(Submit(1, prompt(4), 5, LONG))  # 9 tokens, of which the last is never computed: 4 pages
    for _ in range(5):
        (event,) = turn(s)
    assert event.finish == "length"


# refusals


@pytest.mark.parametrize(
    ("submit", "words"),
    [
        (Submit(1, [], 5), "prompt is empty"),
        (Submit(1, [1], 0), "max_tokens is 0"),
        (Submit(1, prompt(200), 57), "200 prompt tokens and 57 new ones exceed the 256"),
        (Submit(1, prompt(10), 8), "18 tokens need 5 pages of cache, there are 4"),
        (Submit(7, [1], 1), "request number 7 is in use"),
    ],
)
def test_what_can_never_be_served_is_an_error_at_once(submit: Submit, words: str) -> None:
    s = scheduler(pages=4)
    s.submit(Submit(7, [1], 1))
    refusal = s.submit(submit)
    assert refusal is not None
    assert (refusal.request, refusal.token, refusal.finish) == (submit.request, -1, "error")
    assert words in refusal.error
    assert s.stats().waiting == 1


def test_a_full_queue_refuses() -> None:
    s = scheduler(seqs=3, queued=2)
    # A burst that comes before the first plan gets what it would get one by one: three run, two wait.
    assert [s.submit(Submit(n, [n], 1)) for n in (1, 2, 3, 4, 5)] == [None] * 5
    refusal = s.submit(Submit(6, [6], 1))
    assert refusal is not None
    assert (refusal.finish, refusal.error) == ("refused", "5 requests run or wait, 5 may (try again later)")
    turn(s)
    assert s.submit(Submit(6, [6], 1)) is None


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"seqs": 9, "tokens": 8}, "max-num-batched-tokens 8 is below max-num-seqs 9"),
        ({"seqs": 0}, "max-num-seqs 0"),
        ({"queued": 0}, "max-queued 0"),
        ({"page_size": 0}, "page size 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        scheduler(**sizes)


@settings(max_examples=100, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=8),
    seqs=st.integers(1, 4),
    extra=st.integers(0, 8),
)
def test_the_counters_add_up(requests: list[tuple[int, int]], seqs: int, extra: int) -> None:
    s = scheduler(seqs=seqs, tokens=seqs + extra)
    for number, (length, max_tokens) in enumerate(requests):
        s.submit(Submit(number, prompt(length, 100 * number), max_tokens, LONG))
    computed = 0
    while not s.idle:
        step = planned(s)
        computed += step.tokens
        s.commit(step, say(step))
    stats = s.stats(dropped_messages=3)
    assert stats.prompt_tokens == sum(length for length, _ in requests)
    assert stats.generated_tokens == sum(max_tokens for _, max_tokens in requests)
    assert computed == stats.prompt_tokens + stats.generated_tokens - len(requests)
    assert (stats.running, stats.waiting, stats.pages_used, stats.dropped_messages) == (0, 0, 0, 3)
