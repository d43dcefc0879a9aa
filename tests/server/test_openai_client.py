"""The official client against the server: a scripted engine for every shape, then the real one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest
from live_server import HELLO, Live, fake_engine, live, saying
from openai import OpenAI
from test_shutdown import SOURCE, free_port, wait_ready

from fullbore.model.locate import BUNDLED

HI = [{"role": "user", "content": "hi"}]
THOUGHT = "hm 你好</think>\n\nfour 🙂"


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(fake_engine(THOUGHT), keys=["a-key"]) as running:
        yield running


@pytest.fixture
def client(server: Live) -> OpenAI:
    server.engine.script = saying(THOUGHT)
    server.engine.fault = lambda prompt, count: ""
    return OpenAI(base_url=f"{server.url}/v1", api_key="a-key", max_retries=0)


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HI, seed=1, temperature=0.5, n=2)
    for index, choice in enumerate(answer.choices):
        assert (choice.index, choice.finish_reason) == (index, "stop")
        assert choice.message.content == "four 🙂"
        assert choice.message.reasoning_content == "hm 你好"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert answer.system_fingerprint
    assert answer._request_id


def test_chat_stream(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=HI,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=2,
    )
    chunks = list(stream)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "four 🙂"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "hm 你好"
    assert deltas[0].role == "assistant"
    entries = [e for chunk in chunks for c in chunk.choices if c.logprobs for e in c.logprobs.content]
    assert len(entries) == chunks[-1].usage.completion_tokens
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def test_chat_stream_helper(client: OpenAI) -> None:
    """The client's own accumulation reads our chunks as its own."""
    with client.chat.completions.stream(model="demo", messages=HI) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == "four 🙂"


def test_completions(client: OpenAI, server: Live) -> None:
    server.engine.script = saying(HELLO)
    answer = client.completions.create(model="demo", prompt=["a", "b"], logprobs=2, max_tokens=50, echo=False)
    assert [choice.text for choice in answer.choices] == [HELLO, HELLO]
    assert "".join(answer.choices[0].logprobs.tokens[:1]) == HELLO[:2]
    chunks = list(
        client.completions.create(model="demo", prompt=[5, 6], stream=True, echo=True, max_tokens=50)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks).endswith(HELLO)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "alias"]
    assert client.models.retrieve("demo").max_model_len == 256


def test_errors_have_the_classes_that_callers_catch(client: OpenAI, server: Live) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="demo", messages=HI, temperature=3)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "temperature",
        "invalid_value",
        "invalid_request_error",
    )
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=HI)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="demo", prompt=[5] * 256)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError) as stranger:
        OpenAI(base_url=client.base_url, api_key="other", max_retries=0).models.list()
    assert stranger.value.code == "invalid_api_key"


def test_a_poisonous_request_is_sent_once(server: Live, client: OpenAI) -> None:
    server.engine.fault = lambda prompt, count: "logits are not finite"
    server.engine.submitted.clear()
    with pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=2).chat.completions.create(model="demo", messages=HI)
    assert len(server.engine.submitted) == 1
    server.engine.fault = lambda prompt, count: "logits are not finite" if count == 2 else ""
    with pytest.raises(openai.APIError, match="not finite"):
        list(client.chat.completions.create(model="demo", messages=HI, stream=True))
    assert server.nothing_leaks()


def test_a_refused_request_is_sent_again(server: Live, client: OpenAI) -> None:
    server.engine.queue = 0
    server.engine.submitted.clear()
    try:
        with pytest.raises(openai.InternalServerError) as full:
            client.with_options(max_retries=1).chat.completions.create(model="demo", messages=HI)
    finally:
        server.engine.queue = 10_000
    assert full.value.status_code == 503
    assert len(server.engine.submitted) == 2


def test_leaving_a_stream_aborts_it(server: Live, client: OpenAI) -> None:
    server.engine.delay_s = 0.02
    try:
        stream = client.chat.completions.create(
            model="demo", messages=HI, stream=True, max_tokens=200, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        assert server.engine.open == 1
        stream.close()
        assert server.nothing_leaks()
    finally:
        server.engine.delay_s = 0.0


def test_many_at_once() -> None:
    with live() as server:
        server.engine.delay_s = 0.005

        async def everybody() -> list[str]:
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

            async def one(number: int) -> str:
                prompt = f"{number}"
                if number % 2:
                    answer = await client.completions.create(
                        model="demo", prompt=prompt, echo=True, max_tokens=50
                    )
                    return answer.choices[0].text
                stream = await client.completions.create(
                    model="demo", prompt=prompt, echo=True, max_tokens=50, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            async with client:
                return await asyncio.gather(*(one(number) for number in range(100)))

        assert asyncio.run(everybody()) == [f"{number}{HELLO}" for number in range(100)]
        assert server.nothing_leaks()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenAI, "subprocess.Popen[bytes]"]]:
    """``fullbore serve demo`` as a process: HTTP, sockets, engine process, network."""
    if not (BUNDLED / "demo" / "config.json").exists():
        pytest.skip("the demo model is not there")
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [
        sys.executable,
        "-m",
        "fullbore",
        "serve",
        "demo",
        "--port",
        str(port),
        "--max-model-len",
        "1024",
        "--tune",
        "off",
    ]
    with log.open("wb") as out:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        process = subprocess.Popen([*command, "--threads", "1"], stdout=out, stderr=out, env=environment)
        try:
            wait_ready(port, process, seconds=200)
            yield (
                OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120),
                process,
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


SUM = [{"role": "user", "content": "What is 17 + 25?"}]


def test_the_real_model_answers_alike_streaming_or_not(
    demo: tuple[OpenAI, "subprocess.Popen[bytes]"],
) -> None:
    client, _ = demo
    whole = client.chat.completions.create(model="demo", messages=SUM, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=SUM, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    message = whole.choices[0].message
    assert message.content
    assert whole.choices[0].finish_reason == "stop"
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_the_real_engine_honours_sampling(demo: tuple[OpenAI, "subprocess.Popen[bytes]"]) -> None:
    client, _ = demo
    ask = {"model": "demo", "prompt": "What is", "max_tokens": 12}
    one, two = (client.completions.create(**ask, seed=7, temperature=1.5, n=2) for _ in range(2))
    assert [choice.text for choice in one.choices] == [choice.text for choice in two.choices]
    ignoring = client.completions.create(**ask, temperature=0, extra_body={"ignore_eos": True})
    assert (ignoring.usage.completion_tokens, ignoring.choices[0].finish_reason) == (12, "length")
    told = client.completions.create(**ask, temperature=0, logprobs=3).choices[0].logprobs
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert len(top) == 3
        assert top[token] == logprob == max(top.values()) <= 0


def test_the_real_engine_reuses_a_prefix(demo: tuple[OpenAI, "subprocess.Popen[bytes]"]) -> None:
    client, _ = demo
    ids = [5 + number % 50 for number in range(100)]
    first = client.completions.create(model="demo", prompt=ids, max_tokens=2, temperature=0)
    again = client.completions.create(model="demo", prompt=ids, max_tokens=2, temperature=0)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens >= 64
    assert first.choices[0].text == again.choices[0].text


def test_leaving_frees_the_real_engine(demo: tuple[OpenAI, "subprocess.Popen[bytes]"]) -> None:
    client, _ = demo
    long = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(model="demo", messages=SUM, stream=True, **long)
    next(iter(stream))
    stream.close()
    for _ in range(200):
        stats = client.get("/../server_info", cast_to=dict)["stats"]
        if stats["running"] == stats["waiting"] == stats["pages_used"] == 0:
            return
    raise AssertionError(stats)
