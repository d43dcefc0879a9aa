"""The closed loop in counts, against closed forms, a loop that takes every step, and Little's law."""

import math
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.plan.closed_loop import Load, Outcome, run
from fullbore.steptime.profiles import Policy
from fullbore.steptime.step import Step

PLAIN = Policy(chunk_tokens=8192, most_running=10_000, mixed=False)
LOADS = st.builds(
    Load,
    input_tokens=st.integers(1, 3000),
    output_tokens=st.integers(2, 400),
    length_range=st.floats(0.1, 1.0),
    concurrency=st.integers(1, 24),
    requests=st.integers(1, 60),
)
POLICIES = st.builds(
    Policy,
    chunk_tokens=st.integers(64, 20_000),
    most_running=st.integers(1, 40),
    mixed=st.booleans(),
    polls=st.sampled_from([((1, 1),), ((1, 7),), ((1, 2), (8, 30))]),
    whole=st.booleans(),
    each=st.booleans(),
    hold_steps=st.sampled_from([1, 1, 40]),
)


def seconds(step: Step) -> float:
    """A machine that anybody can reckon with."""
    return 0.01 + 1e-4 * step.decodes + 1e-8 * step.context + 2e-5 * step.prefill_tokens


def test_one_request_at_a_time_takes_what_its_steps_take() -> None:
    load = Load(input_tokens=100, output_tokens=11, length_range=1.0, concurrency=1, requests=5)
    seen = run(load, PLAIN, seconds, request_s=0.05)
    decode_s = [seconds(Step(1, 100 + n)) for n in range(10)]
    assert seen.ttft_s == pytest.approx([0.05 + seconds(Step(0, 0, 100, 0, 1))] * 5)
    assert seen.tpot_s == pytest.approx([fmean(decode_s)] * 5)
    assert seen.duration_s == pytest.approx(5 * (seen.ttft_s[0] + sum(decode_s)))
    assert (seen.input_tokens, seen.output_tokens) == (500, 55)


def test_all_at_once_wait_for_the_prompts_before_them() -> None:
    load = Load(input_tokens=1000, output_tokens=2, length_range=1.0, concurrency=4, requests=4)
    seen = run(load, Policy(chunk_tokens=2000, most_running=99, mixed=False), seconds)
    two = seconds(Step(0, 0, 2000, 0, 2))
    assert seen.ttft_s == pytest.approx([two, two, 2 * two, 2 * two])


def test_prompts_stall_decodes_unless_they_share_a_step() -> None:
    load = Load(input_tokens=2000, output_tokens=64, length_range=0.5, concurrency=8, requests=80)
    stalled = run(load, PLAIN, seconds)
    beside = run(load, Policy(8192, 10_000, mixed=True), seconds)
    # The shared step carries the decodes too, so nothing is lost by waiting there.
    assert beside.duration_s < stalled.duration_s
    assert 6 < beside.decodes <= 8
    assert 6 < stalled.decodes <= 8


def test_rare_looks_at_the_queue_delay_the_first_token_only() -> None:
    load = Load(input_tokens=64, output_tokens=200, length_range=0.5, concurrency=16, requests=160)
    often = run(load, PLAIN, seconds)
    rarely = run(load, Policy(8192, 10_000, False, polls=((1, 30),)), seconds)
    wait_s = fmean(rarely.ttft_s) - fmean(often.ttft_s)
    step_s = seconds(Step(16, 16 * 150))
    assert 0.3 * 30 / 2 * step_s < wait_s < 30 * step_s


def test_a_cold_server_costs_its_first_wave_only() -> None:
    load = Load(input_tokens=1000, output_tokens=50, length_range=1.0, concurrency=4, requests=40)
    warm, cold = run(load, PLAIN, seconds), run(load, PLAIN, seconds, cold_s=2.0)
    assert fmean(cold.ttft_s[:4]) == pytest.approx(fmean(warm.ttft_s[:4]) + 2.0)
    assert cold.ttft_s[4:] == pytest.approx(warm.ttft_s[4:])
    assert cold.tpot_s == pytest.approx(warm.tpot_s)
    alone = Load(1000, 50, 1.0, 1, 5)  # one prompt at a time is what the server has seen before
    assert run(alone, PLAIN, seconds, cold_s=2.0) == run(alone, PLAIN, seconds)


def test_whole_prompts_take_turns() -> None:
    """Three prompts that no step holds two of: one after the other, and no step has more than one."""
    steps: list[int] = []

    def noted(step: Step) -> float:
        steps.append(step.prefill_tokens)
        return seconds(step)

    load = Load(input_tokens=3000, output_tokens=2, length_range=1.0, concurrency=3, requests=3)
    run(load, Policy(chunk_tokens=2000, most_running=99, mixed=True, whole=True), noted)
    assert [tokens for tokens in steps if tokens] == [3000, 3000, 3000]
    steps.clear()
    run(load, Policy(chunk_tokens=2000, most_running=99, mixed=False), noted)
    assert max(steps) == 2000


def test_prompts_that_are_held_come_together() -> None:
    load = Load(input_tokens=64, output_tokens=200, length_range=0.5, concurrency=16, requests=160)
    prompts: list[int] = []

    def noted(step: Step) -> float:
        prompts.extend([step.sampled] if step.prefill_tokens else [])
        return seconds(step)

    held = run(load, Policy(8192, 10_000, False, hold_steps=40), noted)
    together = fmean(prompts)
    prompts.clear()
    at_once = run(load, PLAIN, noted)
    assert together > 1.5 * fmean(prompts)
    assert fmean(held.ttft_s) > fmean(at_once.ttft_s)


@given(st.integers(1, 16), POLICIES)
def test_the_limits_of_groups_add_up(groups: int, policy: Policy) -> None:
    both = policy.over(groups)
    times = groups if policy.each else 1
    assert (both.chunk_tokens, both.most_running) == (
        policy.chunk_tokens * times,
        policy.most_running * times,
    )
    assert policy.over(1).hold_steps == 1


@settings(max_examples=60, deadline=None)
@given(LOADS, POLICIES, st.sampled_from([1.0, 1.7]))
def test_everybody_is_served_and_little_is_right(load: Load, policy: Policy, accepted: float) -> None:
    seen = run(load, policy, seconds, 0.02, accepted)
    lengths = load.lengths()
    assert len(seen.ttft_s) == load.requests
    assert seen.output_tokens == sum(answer for _, answer in lengths)
    assert all(ttft >= 0.02 for ttft in seen.ttft_s)
    latency = [t + p * (a - 1) for t, p, (_, a) in zip(seen.ttft_s, seen.tpot_s, lengths, strict=True)]
    in_flight = sum(latency) / seen.duration_s
    assert in_flight <= min(load.concurrency, load.requests) * (1 + 1e-9)
    if load.requests >= 10 * load.concurrency and accepted == 1.0:
        # Ramp and drain cost at most about one request's time in all of them.
        assert in_flight >= load.concurrency * (1 - 1.5 * max(latency) / seen.duration_s)


@settings(max_examples=30, deadline=None)
@given(LOADS, POLICIES)
def test_a_slower_machine_is_slower(load: Load, policy: Policy) -> None:
    def slow(step: Step) -> float:
        return 1.5 * seconds(step)

    assert run(load, policy, slow).duration_s == pytest.approx(1.5 * run(load, policy, seconds).duration_s)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(2, 200), st.integers(1, 12), st.integers(1, 40))
def test_steps_taken_together_are_those_taken_one_by_one(
    prompt: int, answer: int, concurrency: int, requests: int
) -> None:
    load = Load(prompt, answer, 0.3, concurrency, requests)
    assert run(load, PLAIN, seconds).duration_s == pytest.approx(_one_by_one(load), rel=1e-6)


def _one_by_one(load: Load) -> float:
    """Prompts first, then a decode step, with no request time: when the last token comes."""
    lengths = load.lengths()
    waiting, running, now_s = [], [], 0.0
    fresh = iter(range(load.requests))
    for _ in range(load.concurrency):
        waiting += [number for number in [next(fresh, None)] if number is not None]
    while waiting or running:
        room, batch = PLAIN.chunk_tokens, []
        while waiting and room >= lengths[waiting[0]][0]:
            batch.append(waiting.pop(0))
            room -= lengths[batch[-1]][0]
        if batch:
            now_s += seconds(Step(0, 0, sum(lengths[n][0] for n in batch)))
            running += [[lengths[n][0], lengths[n][1] - 1] for n in batch]
            continue
        now_s += seconds(Step(len(running), sum(context for context, _ in running)))
        for row in running:
            row[0] += 1
            row[1] -= 1
        ended = sum(left == 0 for _, left in running)
        running = [row for row in running if row[1]]
        for _ in range(ended):
            waiting += [number for number in [next(fresh, None)] if number is not None]
    return now_s


def test_memory_bounds_how_many_run() -> None:
    load = Load(input_tokens=100, output_tokens=50, length_range=1.0, concurrency=8, requests=40)
    half = run(load, PLAIN, seconds, cache_tokens=4 * 150)
    assert half.decodes <= 4
    assert fmean(half.ttft_s) > 5 * fmean(run(load, PLAIN, seconds).ttft_s)


def test_a_thousand_requests_take_no_time() -> None:
    calls = 0

    def counted(step: Step) -> float:
        nonlocal calls
        calls += 1
        return seconds(step)

    seen: Outcome = run(Load(1024, 8192, 0.8, 100, 1000), PLAIN, counted)
    # Not one call a step: there are 82,000 of them.
    assert calls < 8 * 1000
    assert math.isfinite(seen.duration_s)
