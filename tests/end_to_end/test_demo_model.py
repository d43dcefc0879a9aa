"""The bundled model, asked through the served API with the official client."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from openai import BadRequestError, OpenAI

from fullbore.train.demo_data import KINDS, Question, is_exact, questions

ASKED = 240
AT_ONCE = 16


@pytest.fixture(scope="module")
def client(demo_url: str) -> OpenAI:
    return OpenAI(base_url=f"{demo_url}/v1", api_key="none", max_retries=0, timeout=240)


def reply(client: OpenAI, question: Question) -> tuple[str, str]:
    """(thought, answer), greedy."""
    result = client.chat.completions.create(
        model="demo",
        messages=list(question.messages),  # type: ignore[arg-type]
        temperature=0,
        max_tokens=400,
    )
    message = result.choices[0].message
    assert result.choices[0].finish_reason == "stop", message
    return message.reasoning_content, message.content or ""  # type: ignore[attr-defined]


def test_held_out_questions_are_answered_exactly(client: OpenAI) -> None:
    """At least 95 % of questions that the model never saw, of all its kinds together."""
    asked = list(islice(questions("heldout", "end to end"), ASKED))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(lambda question: reply(client, question), asked))
    wrong = [
        (question.kind, question.messages[-1]["content"], answer, question.answer)
        for question, (_, answer) in zip(asked, replies, strict=True)
        if not is_exact(answer, question.answer)
    ]
    assert set(KINDS) == {question.kind for question in asked}
    assert all(thought for thought, _ in replies)
    assert len(wrong) <= 0.05 * ASKED, (Counter(kind for kind, *_ in wrong), wrong[:8])


def test_an_answer_is_the_same_alone_and_in_a_batch(client: OpenAI) -> None:
    asked = list(islice(questions("heldout", "batch"), 12))
    alone = [reply(client, question) for question in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda question: reply(client, question), asked))
    assert together == alone


def test_a_stream_carries_what_the_whole_answer_does(client: OpenAI) -> None:
    question = next(questions("heldout", "stream"))
    thought, answer = reply(client, question)
    stream = client.chat.completions.create(
        model="demo",
        messages=list(question.messages),  # type: ignore[arg-type]
        temperature=0,
        max_tokens=400,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thought
    assert "".join(delta.content or "" for delta in deltas) == answer
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert len(deltas) > 5, "a stream comes in pieces"


def test_a_seed_draws_the_same_tokens_in_any_company(client: OpenAI) -> None:
    def drawn(seed: int) -> str:
        result = client.completions.create(
            model="demo",
            prompt="What is",
            max_tokens=24,
            temperature=1.5,
            seed=seed,
            extra_body={"ignore_eos": True},
        )
        return result.choices[0].text

    alone = [drawn(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(drawn, range(6)))
    assert together == alone
    assert len(set(alone)) > 1


def test_a_conversation_goes_on_from_the_prefix_tree(client: OpenAI) -> None:
    system = "You are a helpful assistant. " * 8
    first = [{"role": "system", "content": system}, {"role": "user", "content": "What is 2 + 3?"}]
    client.chat.completions.create(model="demo", messages=first, temperature=0, max_tokens=64)  # type: ignore[arg-type]
    again = client.chat.completions.create(model="demo", messages=first, temperature=0, max_tokens=64)  # type: ignore[arg-type]
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def test_a_prompt_beyond_the_context_is_refused_by_its_code(client: OpenAI) -> None:
    model = client.models.retrieve("demo")
    limit: int = model.max_model_len  # type: ignore[attr-defined]
    with pytest.raises(BadRequestError) as refused:
        client.completions.create(model="demo", prompt=[5] * limit, max_tokens=1)
    assert refused.value.code == "context_length_exceeded"
