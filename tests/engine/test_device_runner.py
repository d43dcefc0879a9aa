"""Steps launched ahead of their tokens, on a device that is as late as it may be, with and without graphs."""

from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from late_stream import GARBAGE, LateStream, Wire
from tiny_checkpoint import VOCAB, write_checkpoint

from fullbore.engine.cuda import pack, unpack
from fullbore.engine.draws import Draws, draw
from fullbore.engine.graphs import buckets
from fullbore.engine.inputs import merged
from fullbore.engine.loop import Loop
from fullbore.engine.messages import Emitted, Sampling, Submit
from fullbore.engine.runner import Runner
from fullbore.engine.sampler import NOT_FINITE
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Row, Started, Step
from fullbore.kernels.torch.sample import TorchSample
from fullbore.model.batch import Batch
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.load import load_model

PAGE = 4
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DeepseekV3:
    return load_model(write_checkpoint(tmp_path_factory.mktemp("tiny")), "float32")


def serve(
    scheduler: Scheduler, runner: Runner, submits: Sequence[Submit], lookahead: int
) -> dict[int, list[Emitted]]:
    """Every event by request; one request comes at each turn."""
    events: dict[int, list[Emitted]] = {submit.request: [] for submit in submits}
    waiting, flying = deque(submits), deque()  # type: ignore[var-annotated]
    while waiting or flying or not scheduler.idle:
        if waiting:
            assert scheduler.submit(waiting.popleft()) is None
        step = scheduler.plan()
        if step is not None:
            flying.append((step, runner.launch(step)))
        if flying and (step is None or len(flying) > lookahead):
            oldest, handle = flying.popleft()
            for event in scheduler.commit(oldest, handle.sampled()):
                events[event.request].append(event)
    scheduler.check()
    assert scheduler.stats().pages_used == 0
    assert not runner._sequences
    return events


def late_runner(model: DeepseekV3, pages: int, seed: int, graphs: bool) -> Runner:
    sizes = (1, 2, 4) if graphs else ()
    runner = Runner(model, pages, PAGE, (), LateStream(seed), sizes, table_width=16)
    runner.capture()
    return runner


samplings = st.one_of(
    st.just(GREEDY),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 1.0, 1.5]),
        top_p=st.sampled_from([0.6, 1.0]),
        top_k=st.sampled_from([0, 20]),
        seed=st.integers(0, 5),
        frequency_penalty=st.sampled_from([0.0, 0.0, 2.0]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.5]),
        min_tokens=st.sampled_from([0, 4]),
        logprobs=st.sampled_from([-1, 2]),
    ),
)
requests = st.tuples(st.integers(1, 24), st.integers(1, 10), samplings, st.integers(0, 12))


@given(
    st.lists(requests, min_size=1, max_size=5),
    st.sampled_from([12, 60]),
    st.sampled_from([8, 40]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_a_late_device_gives_the_tokens_that_each_request_has_alone(
    model: DeepseekV3,
    drawn: list[tuple[int, int, Sampling, int]],
    pages: int,
    tokens: int,
    caching: bool,
    graphs: bool,
    seed: int,
) -> None:
    """With stops found a step late, preemption, chunks, shared prefixes, penalties that need values."""
    submits, expected = [], []
    for number, (length, count, sampling, stop) in enumerate(drawn):
        prompt = [(7 * place) % VOCAB for place in range(length)]
        alone = serve(
            Scheduler(60, PAGE, 8, 60, 100, 60, ()),
            Runner(model, 60, PAGE, ()),
            [Submit(0, prompt, count, sampling)],
            lookahead=0,
        )[0]
        if stop < len(alone):  # ends there, or where the token came before; then it must not be barred
            ends = Sampling(**as_dict(sampling) | {"stop_token_ids": (alone[stop].token,), "min_tokens": 0})
            first = next(at for at, event in enumerate(alone) if event.token == alone[stop].token)
            if sampling.min_tokens == 0:
                sampling, alone = ends, alone[: first + 1]
        submits.append(Submit(number, prompt, count, sampling))
        expected.append([(event.token, event.logprob, event.top) for event in alone])
    found = serve(
        Scheduler(pages, PAGE, 8, tokens, 100, 60, (), caching),
        late_runner(model, pages, seed, graphs),
        submits,
        lookahead=1,
    )
    for number, alone in enumerate(expected):
        assert [(event.token, event.logprob, event.top) for event in found[number]] == alone


POISON = 298  # as the first token of a prompt


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 8), samplings), min_size=1, max_size=5),
    st.integers(0, 4),
    st.integers(0, 30),
    st.sampled_from([12, 60]),
    st.booleans(),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_loop_that_launches_ahead_survives_what_rows_and_devices_do(
    model: DeepseekV3,
    drawn: list[tuple[int, int, Sampling]],
    poisoned: int,
    hiccup: int,
    pages: int,
    graphs: bool,
    seed: int,
) -> None:
    """One request always fails its step, or one forward fails for no reason: the others get their tokens."""
    submits = [
        Submit(n, [(7 * at + 1) % 290 for at in range(length)], count, sampling)
        for n, (length, count, sampling) in enumerate(drawn)
    ]
    expected = {
        submit.request: serve(
            Scheduler(60, PAGE, 8, 60, 100, 60, ()), Runner(model, 60, PAGE, ()), [submit], lookahead=0
        )[submit.request]
        for submit in submits
    }
    if poisoned < len(submits):
        submits[poisoned].prompt[0], hiccup = POISON, 0
    calls, forward = 0, model.forward

    def disturbed(batch: Batch, cache: tuple[torch.Tensor, ...]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == hiccup or bool(((batch.tokens == POISON) & (batch.positions == 0)).any()):
            raise RuntimeError("device lost its way")
        return forward(batch, cache)

    scheduler, wire = Scheduler(pages, PAGE, 8, 16, 100, 60, ()), Wire(list(submits))
    loop = Loop(scheduler, late_runner(model, pages, seed, graphs), wire, VOCAB, lookahead=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", disturbed)
        loop.drain()
        loop.run()
    scheduler.check()
    for submit in submits:
        found = wire.events(submit.request)
        if submit.prompt[0] == POISON:
            assert [event.finish for event in found] == ["error"]
        else:
            told = [(event.token, event.logprob) for event in found]
            assert told == [(event.token, event.logprob) for event in expected[submit.request]]


def as_dict(sampling: Sampling) -> dict[str, object]:
    return {name: getattr(sampling, name) for name in Sampling.__struct_fields__}


def first_step(requests: int = 3, sampling: Sampling = GREEDY) -> Step:
    started = tuple(Started(n, tuple(range(n + 1, n + 7)), sampling) for n in range(requests))
    rows = tuple(Row(n, 0, 6, (2 * n, 2 * n + 1, n + 10), True) for n in range(requests))
    return Step(1, rows, started)


def decodes(number: int, requests: Sequence[int] = (0, 1, 2)) -> Step:
    """The decode of step ``number`` after ``first_step``, which is number 1."""
    return Step(number, tuple(Row(n, 4 + number, 1, (2 * n, 2 * n + 1, n + 10), True) for n in requests))


def test_nobody_is_waited_for_while_tokens_stay_on_the_device(model: DeepseekV3) -> None:
    for sampling in (GREEDY, Sampling(temperature=1.0, seed=3, logprobs=1, min_tokens=5)):
        stream = LateStream()
        runner = Runner(model, 20, PAGE, (), stream)
        handles = [runner.launch(first_step(sampling=sampling)), runner.launch(decodes(2))]
        assert stream.waits == 0
        sync = Runner(model, 20, PAGE, ())
        assert handles[0].sampled() == sync.launch(first_step(sampling=sampling)).sampled()
        assert stream.waits == 1
        assert handles[1].sampled() == sync.launch(decodes(2)).sampled()


def test_sampling_that_looks_at_values_is_put_off_to_the_next_launch(
    model: DeepseekV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Sampling(temperature=1.0, top_p=0.7, seed=3)
    sync = Runner(model, 20, PAGE, ())
    expected = [sync.launch(step).sampled() for step in (first_step(sampling=cut), decodes(2))]
    runs: list[str] = []
    stream = LateStream()
    run = stream.run
    monkeypatch.setattr(stream, "run", lambda work: runs.append(work.__name__) or run(work))
    runner = Runner(model, 20, PAGE, (), stream)
    handles = [runner.launch(first_step(sampling=cut))]
    assert runs == ["network"]
    handles.append(runner.launch(decodes(2)))
    assert runs == ["network", "sampling", "network"]
    assert [handle.sampled() for handle in handles] == expected
    assert runs == ["network", "sampling", "network", "sampling"]


def test_the_operator_draws_the_same_and_is_not_waited_for(
    model: DeepseekV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = Runner(model, 20, PAGE, ())
    for cut in (Sampling(temperature=1.0, top_p=0.7, top_k=50, seed=3), Sampling(temperature=0.8, seed=4)):
        expected = [sync.launch(step).sampled() for step in (first_step(sampling=cut), decodes(2))]
        stream = LateStream()
        with monkeypatch.context() as patch:
            patch.setattr(model, "sample", partial(TorchSample("float32").run, None))
            runner = Runner(model, 20, PAGE, (), stream)
        handles = [runner.launch(first_step(sampling=cut)), runner.launch(decodes(2))]
        assert stream.waits == 0
        assert [handle.rest for handle in handles] == [None, None]
        assert [handle.sampled() for handle in handles] == expected


def test_what_goes_wrong_in_sampling_that_was_put_off_is_the_earlier_steps_error(
    model: DeepseekV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Sampling(temperature=1.0, top_p=0.7, seed=3)
    sync, failing = Runner(model, 20, PAGE, ()), True

    def fail_at_first(logits: torch.Tensor, wishes: Draws) -> torch.Tensor:
        if failing:
            raise RuntimeError("no memory to sort in")
        return draw(logits, wishes)

    with monkeypatch.context() as patch:
        patch.setattr("fullbore.engine.runner.draw", fail_at_first)
        runner = Runner(model, 20, PAGE, ())
        first = runner.launch(first_step(sampling=cut))
        second = runner.launch(decodes(2))
        with pytest.raises(RuntimeError, match="to sort in"):
            first.sampled()
        failing = False
        assert all("not known" in result.error for result in second.sampled().values())
        again = Step(1, first_step().rows)
        assert runner.launch(again).sampled() == sync.launch(first_step(sampling=cut)).sampled()


def test_only_a_penalty_on_an_unknown_token_waits(model: DeepseekV3) -> None:
    stream = LateStream()
    runner = Runner(model, 20, PAGE, (), stream)
    penalised = Sampling(temperature=0.0, repetition_penalty=1.5)
    sync = Runner(model, 20, PAGE, ())
    expected = [sync.launch(step).sampled() for step in (first_step(sampling=penalised), decodes(2))]
    handles = [runner.launch(first_step(sampling=penalised))]
    assert stream.waits == 0
    handles.append(runner.launch(decodes(2)))
    assert stream.waits == 1
    assert [handle.sampled() for handle in handles] == expected


@pytest.mark.parametrize("graphs", [False, True])
def test_what_follows_a_row_that_is_not_finite_is_an_error_too(model: DeepseekV3, graphs: bool) -> None:
    """And its neighbours do not notice."""
    runner, sync = late_runner(model, 20, 0, graphs), Runner(model, 20, PAGE, ())
    assert runner.launch(first_step()).sampled() == sync.launch(first_step()).sampled()
    for layer in runner._cache:
        layer[[0, 1, 10]] = float("nan")
    handles = [runner.launch(decodes(2)), runner.launch(decodes(3))]
    healthy = [sync.launch(decodes(2)).sampled(), sync.launch(decodes(3)).sampled()]
    found = [handle.sampled() for handle in handles]
    assert found[0][0].error == NOT_FINITE
    assert found[1][0].error
    for number in (1, 2):
        assert [result[number] for result in found] == [result[number] for result in healthy]
    assert "not known" in runner.launch(decodes(4)).sampled()[0].error


def test_a_step_that_fails_late_is_run_again_and_so_is_what_was_built_on_it(
    model: DeepseekV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, sync = late_runner(model, 20, 0, False), Runner(model, 20, PAGE, ())
    expected = [sync.launch(step).sampled() for step in (first_step(), decodes(2), decodes(3))]
    handles = [runner.launch(first_step())]
    assert handles[0].sampled() == expected[0]

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("device lost its way")

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", fail)
        late = [runner.launch(decodes(2)), runner.launch(decodes(3))]
        with pytest.raises(RuntimeError, match="lost its way"):
            late[0].sampled()
    assert [runner._sequences[number].length for number in range(3)] == [7, 7, 7]
    parts = [runner.launch(decodes(2, [number])).sampled() for number in (2, 0, 1)]
    assert {key: value for part in parts for key, value in part.items()} == expected[1]
    assert runner.launch(decodes(3)).sampled() == expected[2]


def test_rows_that_fill_a_graph_leave_every_page_of_the_cache_alone(model: DeepseekV3) -> None:
    runner = late_runner(model, 20, 0, True)
    for layer in runner._cache:
        layer.zero_()  # what memory holds at first may be NaN, which differs from itself
    for step in (first_step(), decodes(2), decodes(3)):  # three rows take the graph of four
        assert len(runner._cache[0]) == 21
        for layer in runner._cache:
            layer[7:10] = 5.0  # pages that nobody has
        before = [layer[:20].clone() for layer in runner._cache]
        runner.launch(step).sampled()
        written = torch.zeros(20 * PAGE, dtype=torch.bool)
        for row in step.rows:
            for at in range(row.first, row.first + row.count):
                written[row.pages[at // PAGE] * PAGE + at % PAGE] = True
        for old, new in zip(before, runner._cache, strict=True):
            changed = (old != new[:20]).flatten(0, 1).any(-1)
            assert not (changed & ~written).any()


@given(st.integers(1, 600))
def test_buckets_rise_to_the_most_and_waste_few_rows(most: int) -> None:
    sizes = buckets(most)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] == 1
    assert sizes[-1] == most
    for rows in range(1, most + 1):
        size = next(size for size in sizes if size >= rows)
        assert size - rows < max(8, rows)
        assert size < 2 * rows or size - rows < 8


arrays = st.dictionaries(
    st.text(max_size=4),
    st.tuples(
        st.sampled_from([np.int64, np.int32, np.float32, np.float64, np.uint8]),
        st.lists(st.integers(0, 5), min_size=1, max_size=3),
    ),
    max_size=5,
)


@given(arrays, st.integers(0, 100))
def test_arrays_that_cross_in_one_copy_come_out_as_they_were(
    drawn: dict[str, tuple[type, list[int]]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    given = {name: generator.integers(0, 200, shape).astype(kind) for name, (kind, shape) in drawn.items()}
    buffer = torch.full((sum(-(-array.nbytes // 16) * 16 for array in given.values()),), GARBAGE).byte()
    pack(given, buffer)
    for name, tensor in unpack(given, buffer).items():
        assert np.array_equal(tensor.numpy(), given[name])
        assert tensor.numpy().dtype == given[name].dtype


def test_a_token_that_is_none_is_never_looked_up() -> None:
    tokens, sources = torch.tensor([9, 8, 7]), torch.tensor([-1, 1, 0])
    assert merged(tokens, sources, torch.tensor([-1, 5])).tolist() == [9, 5, 0]
    assert merged(tokens, None, torch.tensor([-1, 5])) is tokens


def test_a_checkpoint_that_is_damaged_errs_on_a_late_device_too(tmp_path: Path) -> None:
    damaged = load_model(write_checkpoint(tmp_path, "model.layers.0.self_attn.o_proj.weight"), "float32")
    found = late_runner(damaged, 20, 0, False).launch(first_step()).sampled()
    assert {result.error for result in found.values()} == {NOT_FINITE}
