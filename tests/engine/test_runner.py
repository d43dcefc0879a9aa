"""The runner over a real, tiny network: a request's tokens are the same alone and in any company."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tiny_checkpoint import EOS, VOCAB, write_checkpoint

from fullbore.engine.messages import Sampling, Submit
from fullbore.engine.runner import Runner
from fullbore.engine.sampler import NOT_FINITE
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Row, Sampled, Started, Step
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.load import load_model

PAGE = 4


@pytest.fixture(scope="module", params=["auto", "fp8"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DeepseekV3:
    """With a cache in the compute type, and one in FP8: all promises are the same."""
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    return load_model(folder, "float32", kv_cache_dtype=request.param)


def answer_all(
    model: DeepseekV3, submits: list[Submit], pages: int, tokens: int, caching: bool
) -> list[list[Sampled]]:
    """Serve ``submits``, one arriving at each step."""
    policy = Scheduler(pages, PAGE, 8, tokens, 100, 60, (EOS,), caching)
    runner = Runner(model, pages, PAGE, (EOS,))
    results: list[list[Sampled]] = [[] for _ in submits]
    waiting = list(submits)
    while waiting or not policy.idle:
        if waiting:
            assert policy.submit(waiting.pop(0)) is None
        step = policy.plan()
        if step is None:
            continue
        sampled = runner.launch(step).sampled()
        for event in policy.commit(step, sampled):
            results[event.request].append(sampled[event.request])
    policy.check()
    assert not runner._sequences
    return results


samplings = st.one_of(
    st.just(Sampling(temperature=0.0, logprobs=2)),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.7, 1.0, 1.5]),
        top_p=st.sampled_from([0.6, 1.0]),
        top_k=st.sampled_from([0, 20]),
        seed=st.integers(0, 5),
        presence_penalty=st.sampled_from([0.0, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        min_tokens=st.sampled_from([0, 4]),
    ),
)
requests = st.tuples(st.integers(1, 24), st.integers(1, 8), samplings)


@given(
    st.lists(requests, min_size=2, max_size=5),
    st.sampled_from([12, 60]),
    st.sampled_from([8, 40]),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_a_request_gets_the_same_tokens_alone_and_in_any_batch(
    model: DeepseekV3, drawn: list[tuple[int, int, Sampling]], pages: int, tokens: int, caching: bool
) -> None:
    """Few pages force preemption, few tokens chunks, one common text shared prefixes; logprobs agree too."""
    submits = [
        Submit(number, [(7 * place) % VOCAB for place in range(length)], count, sampling)
        for number, (length, count, sampling) in enumerate(drawn)
    ]
    together = answer_all(model, submits, pages, tokens, caching)
    for submit, found in zip(submits, together, strict=True):
        alone = answer_all(model, [replace_number(submit)], 60, 60, False)[0]
        assert found == alone


def replace_number(submit: Submit) -> Submit:
    return Submit(0, submit.prompt, submit.max_tokens, submit.sampling)


def test_greedy_tokens_are_those_of_whole_forwards(model: DeepseekV3) -> None:
    """Without pages kept from one token to the next: each token from a prefill of everything before it."""
    tokens = [5, 17, 42, 8, 100, 3]
    (found,) = answer_all(model, [Submit(0, tokens, 15, Sampling(temperature=0.0))], 60, 60, True)
    for result in found:
        fresh = Runner(model, 60, PAGE, ())
        row = Row(0, 0, len(tokens), tuple(range(20, 40)), True)
        step = Step(1, (row,), (Started(0, tuple(tokens), Sampling(temperature=0.0)),))
        assert result.token == fresh.launch(step).sampled()[0].token
        tokens.append(result.token)


def steps_of_three(count: int = 6) -> Step:
    started = tuple(
        Started(n, tuple(range(n + 1, n + 1 + count)), Sampling(temperature=0.0)) for n in range(3)
    )
    rows = tuple(Row(n, 0, count, (2 * n, 2 * n + 1, n + 10), True) for n in range(3))
    return Step(1, rows, started)


def decode_of(step: Step, number: int) -> Step:
    rows = tuple(replace(row, first=row.first + row.count, count=1) for row in step.rows)
    return Step(number, rows)


def test_a_step_can_be_run_again_whole_or_in_parts(model: DeepseekV3) -> None:
    step = steps_of_three()
    runner, once = (Runner(model, 20, PAGE, ()) for _ in range(2))
    expected = once.launch(step).sampled()
    assert runner.launch(step).sampled() == expected
    again = replace(step, started=())
    assert runner.launch(again).sampled() == expected
    parts = [replace(again, others=(row,)) for row in reversed(step.rows)]
    assert {n: s for part in parts for n, s in runner.launch(part).sampled().items()} == expected
    assert runner.launch(decode_of(step, 2)).sampled() == once.launch(decode_of(step, 2)).sampled()


def test_corrupt_latents_of_one_request_stay_with_it(model: DeepseekV3) -> None:
    """Also after its pages went to somebody else: what a freed page holds is never read."""
    step = steps_of_three()
    healthy, runner = (Runner(model, 20, PAGE, ()) for _ in range(2))
    healthy.launch(step)
    runner.launch(step)
    for layer in runner._cache:
        nan = 0xFF if layer.dtype is torch.uint8 else float("nan")
        layer[[0, 1, 10]] = nan  # request 0, which has the page that page tables are padded with
    later = decode_of(step, 2)
    expected, found = healthy.launch(later).sampled(), runner.launch(later).sampled()
    assert found[0].error == NOT_FINITE
    assert (found[1], found[2]) == (expected[1], expected[2])
    heir = Started(9, (1, 2, 3, 4, 5, 6), Sampling(temperature=0.0))
    taken = Step(3, (Row(9, 0, 6, (1, 0, 10), True),), (heir,), (0,))
    assert runner.launch(taken).sampled()[9] == healthy.launch(taken).sampled()[9]
    assert 0 not in runner._sequences


def test_an_exception_keeps_no_token_and_forgets_nothing(
    model: DeepseekV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = replace(steps_of_three(), ended=(2,))
    runner = Runner(model, 20, PAGE, ())

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("device lost its way")

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", fail)
        with pytest.raises(RuntimeError, match="lost its way"):
            runner.launch(step)
    assert [len(runner._sequences[n].tokens[: runner._sequences[n].length]) for n in range(3)] == [6, 6, 6]
    result = runner.launch(replace(step, started=())).sampled()
    assert result == Runner(model, 20, PAGE, ()).launch(step).sampled()
    assert sorted(runner._sequences) == [0, 1]


def test_a_row_whose_tokens_are_unknown_errs_alone(model: DeepseekV3) -> None:
    step = steps_of_three()
    rows = (step.rows[0], replace(step.rows[1], first=3), replace(step.rows[2], request=77))
    found = Runner(model, 20, PAGE, ()).launch(replace(step, others=rows)).sampled()
    assert not found[0].error
    assert "not known" in found[1].error
    assert "not known" in found[77].error


def test_a_step_in_which_nothing_is_sampled_gives_nothing(model: DeepseekV3) -> None:
    step = steps_of_three()
    rows = tuple(replace(row, count=4, samples=False) for row in step.rows)
    assert Runner(model, 20, PAGE, ()).launch(replace(step, others=rows)).sampled() == {}


def test_batches_are_made_as_the_network_expects_them(
    model: DeepseekV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = (
        Started(1, tuple(range(100, 109)), Sampling(temperature=0.0)),
        Started(2, tuple(range(200, 210)), Sampling(temperature=0.0)),
    )
    rows = (Row(1, 8, 1, (5, 6, 7), True), Row(2, 3, 6, (1, 9, 4), False))
    seen = []
    forward: Callable[..., torch.Tensor] = model.forward
    monkeypatch.setattr(model, "forward", lambda batch, cache: seen.append(batch) or forward(batch, cache))
    Runner(model, 20, PAGE, ()).launch(Step(1, rows, started))
    (batch,) = seen
    assert batch.tokens.tolist() == [108, *range(203, 209)]
    assert batch.positions.tolist() == [8, *range(3, 9)]
    assert batch.slots.tolist() == [7 * 4, 1 * 4 + 3, 36, 37, 38, 39, 16]
    assert batch.decode_rows == 1
    assert batch.page_table.tolist() == [[5, 6, 7], [1, 9, 4]]
    assert batch.contexts.tolist() == [9, 9]
    assert batch.prefills == ((1, 6, 3),)
    assert batch.logits_at.tolist() == [0]
    dtypes = [t.dtype for t in (batch.tokens, batch.positions, batch.slots, batch.logits_at)]
    assert dtypes == [torch.int64] * 4
    assert (batch.page_table.dtype, batch.contexts.dtype) == (torch.int32, torch.int32)


def test_damage_in_the_checkpoint_shows_as_an_error_not_as_text(tmp_path: Path) -> None:
    damaged = load_model(write_checkpoint(tmp_path, "model.layers.0.self_attn.o_proj.weight"), "float32")
    found = Runner(damaged, 20, PAGE, ()).launch(steps_of_three()).sampled()
    assert {result.error for result in found.values()} == {NOT_FINITE}
