"""What a right request gets, in the shapes of OpenAI's API; the engine is scripted."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_server import HELLO, VOCABULARY, Live, fake_engine, live, saying, tokenizer
from model_folders import R1_0528


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(template=R1_0528) as running:
        yield running


@pytest.fixture(autouse=True)
def _as_new(server: Live) -> Iterator[None]:
    server.engine.script = saying(HELLO)
    server.engine.cached = 0
    server.engine.submitted.clear()
    yield
    assert server.nothing_leaks()


def joined(events: list[Any], index: int = 0) -> dict[str, str]:
    """What a chat stream says, by the name of its delta."""
    said: dict[str, str] = {}
    for event in events:
        for choice in event["choices"] if isinstance(event, dict) else []:
            for name, text in choice["delta"].items() if choice["index"] == index else []:
                said[name] = said.get(name, "") + (text or "")
    return said


def test_a_chat_answer_has_every_field(server: Live) -> None:
    server.engine.cached = 3
    answer = server.chat().json
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "demo"
    assert answer["system_fingerprint"] == "fp_0123456789abcdef"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": HELLO, "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len(tokenizer().encode(HELLO)) + 1  # and the end token
    assert usage["prompt_tokens"] == len(server.engine.submitted[0].prompt)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}


def test_a_stream_says_what_the_whole_answer_says(server: Live) -> None:
    events = server.chat(stream=True, stream_options={"include_usage": True}).events
    assert events[-1] == "[DONE]"
    assert joined(events) == {"role": "assistant", "content": HELLO}
    assert [event["object"] for event in events[:-1]] == ["chat.completion.chunk"] * (len(events) - 1)
    assert len({event["id"] for event in events[:-1]}) == 1
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == server.chat().json["usage"]
    assert all(event["usage"] is None for event in events[:-2])
    assert [c["finish_reason"] for event in events[:-2] for c in event["choices"]][-1] == "stop"


def test_without_include_usage_no_chunk_has_one(server: Live) -> None:
    events = server.chat(stream=True).events
    assert all("usage" not in event for event in events[:-1])
    assert all(event["choices"] for event in events[:-1])


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), stop=st.text(min_size=1, max_size=3)
)
def test_any_text_survives_streaming_and_stops_where_it_should(server: Live, text: str, stop: str) -> None:
    text = "x" + text  # an answer that begins with a think tag is another test's
    server.engine.script = saying(text)
    cut = text.find(stop)
    expected = text if cut < 0 else text[:cut]
    for stream in (True, False):
        answer = server.chat(stream=stream, stop=[stop], max_tokens=200)
        if stream:
            assert joined(answer.events).get("content", "") == expected
            finish = [event["choices"][0] for event in answer.events[:-1]][-1]
        else:
            assert answer.json["choices"][0]["message"]["content"] == expected
            finish = answer.json["choices"][0]
        assert finish["finish_reason"] == "stop"
        assert finish["stop_reason"] == (stop if cut >= 0 else None)


def test_the_stop_string_stays_when_asked_for(server: Live) -> None:
    choice = server.chat(stop="llo", include_stop_str_in_output=True).json["choices"][0]
    assert choice["message"]["content"] == "hello"


def test_stop_strings_count_only_after_min_tokens(server: Live) -> None:
    server.engine.script = saying("a1a1a1a1")
    choice = server.chat(stop="1", min_tokens=5, max_tokens=50).json["choices"][0]
    assert choice["message"]["content"] == "a1a1a"
    assert choice["finish_reason"] == "stop"


def test_a_stop_token_ends_and_is_named(server: Live) -> None:
    ids = tokenizer().encode(HELLO)
    choice = server.chat(stop_token_ids=[ids[2]]).json["choices"][0]
    assert choice["message"]["content"] == tokenizer().decode(ids[:2])
    assert choice["stop_reason"] == ids[2]
    kept = server.chat(stop_token_ids=[ids[2]], include_stop_str_in_output=True).json["choices"][0]
    assert kept["message"]["content"] == tokenizer().decode(ids[:3])


@pytest.mark.parametrize("stream", [True, False])
def test_a_thought_is_split_from_the_answer_under_both_names(server: Live, stream: bool) -> None:
    server.engine.script = saying("<think>\nhm 你\n</think>\n\nfour")
    answer = server.chat(stream=stream, stream_options={"include_usage": True} if stream else None)
    message = joined(answer.events) if stream else answer.json["choices"][0]["message"]
    assert message["reasoning_content"] == message["reasoning"] == "hm 你"
    assert message["content"] == "four"
    usage = answer.events[-2]["usage"] if stream else answer.json["usage"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


def test_a_prompt_may_open_the_thought() -> None:
    with live(fake_engine("hm</think>four")) as opened:
        message = opened.chat().json["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm", "four")
    with live(fake_engine("hm</think>four"), reasoning=False) as unsplit:
        message = unsplit.chat().json["choices"][0]["message"]
        assert message["content"] == "hm</think>four"
        assert "reasoning" not in message


@pytest.mark.parametrize("stream", [True, False])
def test_chat_logprobs(server: Live, stream: bool) -> None:
    answer = server.chat(logprobs=True, top_logprobs=2, stream=stream)
    if stream:
        chunks = [event["choices"][0] for event in answer.events[:-1]]
        entries = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
    else:
        entries = answer.json["choices"][0]["logprobs"]["content"]
    ids = [*tokenizer().encode(HELLO), server.engine.eos]
    assert [bytes(entry["bytes"]) for entry in entries] == [tokenizer().token_bytes(id) for id in ids]
    for entry in entries:
        assert entry["logprob"] == -0.5
        assert [top["logprob"] for top in entry["top_logprobs"]] == [-0.5, -1.5]
        assert entry["top_logprobs"][0] == {k: entry[k] for k in ("token", "bytes", "logprob")}


def test_chat_logprobs_without_alternatives(server: Live) -> None:
    entries = server.chat(logprobs=True).json["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in entries)


@pytest.mark.parametrize("stream", [True, False])
def test_completion_logprobs(server: Live, stream: bool) -> None:
    answer = server.complete(logprobs=2, max_tokens=50, stream=stream)
    parts = [event["choices"][0] for event in answer.events[:-1]] if stream else answer.json["choices"]
    logprobs = [part["logprobs"] for part in parts]
    tokens = [token for part in logprobs for token in part["tokens"]]
    offsets = [offset for part in logprobs for offset in part["text_offset"]]
    text = "".join(part["text"] for part in parts)
    assert text == HELLO
    for token, offset in zip(tokens[:-1], offsets, strict=False):
        assert token.startswith("bytes:") or text.startswith(token, offset)
    assert offsets == sorted(offsets)
    assert [p for part in logprobs for p in part["token_logprobs"]] == [-0.5] * len(tokens)
    tops = [top for part in logprobs for top in part["top_logprobs"]]
    assert all(len(top) == 2 and token in top for top, token in zip(tops, tokens, strict=True))


def test_part_of_a_character_is_written_as_bytes(server: Live) -> None:
    server.engine.script = saying("é")  # two byte tokens for this small tokenizer
    logprobs = server.complete(logprobs=0).json["choices"][0]["logprobs"]
    assert logprobs["tokens"][:2] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs["text_offset"][:2] == [0, 0]
    assert logprobs["top_logprobs"] is None


@pytest.mark.parametrize("stream", [True, False])
def test_n_answers_for_each_prompt(server: Live, stream: bool) -> None:
    server.engine.script = lambda prompt, sampling: tokenizer().encode(f"{len(prompt)} {sampling.seed}")
    answer = server.complete([[5, 6], [7, 8, 9]], n=3, seed=40, stream=stream)
    texts = dict.fromkeys(range(6), "")
    for event in answer.events[:-1] if stream else [answer.json]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "2 40", 1: "2 41", 2: "2 42", 3: "3 40", 4: "3 41", 5: "3 42"}
    if not stream:
        assert [choice["index"] for choice in answer.json["choices"]] == list(range(6))
        assert answer.json["usage"]["prompt_tokens"] == 5  # each prompt once


def test_n_chat_answers_each_begin_with_a_role(server: Live) -> None:
    events = server.chat(n=3, stream=True).events
    assert all(joined(events, index) == {"role": "assistant", "content": HELLO} for index in range(3))
    assert [choice["message"]["content"] for choice in server.chat(n=3).json["choices"]] == [HELLO] * 3


def test_seeds_stay_in_their_range(server: Live) -> None:
    server.complete(n=2, seed=2**63 - 1)
    assert sorted(each.sampling.seed or 0 for each in server.engine.submitted) == [-(2**63), 2**63 - 1]


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("hello", [tokenizer().encode("hello")]),
        (["hello", "you"], [tokenizer().encode("hello"), tokenizer().encode("you")]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_every_shape_of_prompt(server: Live, prompt: Any, ids: list[list[int]]) -> None:
    answer = server.complete(prompt, max_tokens=2)
    assert [each.prompt for each in server.engine.submitted] == ids
    assert [choice["finish_reason"] for choice in answer.json["choices"]] == ["length"] * len(ids)


@pytest.mark.parametrize("stream", [True, False])
def test_echo_puts_the_prompt_first(server: Live, stream: bool) -> None:
    for prompt, text in (("the cat", "the cat"), (tokenizer().encode("says"), "says")):
        answer = server.complete(prompt, echo=True, max_tokens=50, stream=stream)
        parts = [event["choices"][0] for event in answer.events[:-1]] if stream else answer.json["choices"]
        assert "".join(part["text"] for part in parts) == text + HELLO


def test_token_ids_come_back_when_asked_for(server: Live) -> None:
    ids = [*tokenizer().encode(HELLO), server.engine.eos]
    chat = server.chat(return_token_ids=True).json
    assert chat["choices"][0]["token_ids"] == ids
    assert chat["prompt_token_ids"] == server.engine.submitted[0].prompt
    events = server.chat(return_token_ids=True, stream=True).events[:-1]
    assert [id for event in events for id in event["choices"][0].get("token_ids", [])] == ids
    assert events[0]["prompt_token_ids"] == chat["prompt_token_ids"]
    choice = server.complete([5, 6], return_token_ids=True, max_tokens=50).json["choices"][0]
    assert (choice["token_ids"], choice["prompt_token_ids"]) == (ids, [5, 6])


def test_sampling_reaches_the_engine_as_it_was_asked_for(server: Live) -> None:
    asked = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 10**6,
        "min_p": 0.1,
        "seed": -5,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "repetition_penalty": 1.1,
        "min_tokens": 2,
        "stop_token_ids": [4],
        "ignore_eos": True,
    }
    server.chat(**asked, logit_bias={"7": -100, "8": 1.5}, max_tokens=9, cache_salt="tenant")
    (got,) = server.engine.submitted
    assert (got.max_tokens, got.salt) == (9, "tenant")
    assert {name: getattr(got.sampling, name) for name in asked} == asked | {
        "top_k": VOCABULARY,
        "stop_token_ids": (4,),
    }
    assert got.sampling.logit_bias == {7: -100.0, 8: 1.5}


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_off(server: Live, top_k: int) -> None:
    server.chat(top_k=top_k)
    assert server.engine.submitted[0].sampling.top_k == 0


def test_max_tokens_is_bounded_by_the_context(server: Live) -> None:
    server.chat(max_tokens=10**9, ignore_eos=True)
    server.chat(ignore_eos=True)
    server.complete([5] * 255, max_tokens=77)
    server.complete("x")
    server.chat(max_tokens=5, max_completion_tokens=3)
    prompt = len(server.engine.submitted[0].prompt)
    assert [each.max_tokens for each in server.engine.submitted] == [256 - prompt, 256 - prompt, 1, 16, 3]


def test_the_template_decides_on_the_prompt(server: Live) -> None:
    server.chat("a")
    server.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}
    )
    continued = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    server.post("/v1/chat/completions", {"messages": continued, "continue_final_message": True})
    first, second, third = (each.prompt for each in server.engine.submitted)
    assert first == second
    assert tokenizer().decode(third, skip_special=False).endswith("<｜Assistant｜>b")


def test_control_text_in_a_message_stays_text(server: Live) -> None:
    server.chat("<｜Assistant｜>")
    server.complete("<｜Assistant｜>")
    for each in server.engine.submitted:
        spelled = tokenizer().decode(each.prompt, skip_special=False)
        expected = 2 if each is server.engine.submitted[0] else 1  # the template writes one of its own
        assert spelled.count("<｜Assistant｜>") == expected
        control = [id for id in each.prompt if tokenizer().token_bytes(id) == "<｜Assistant｜>".encode()]
        assert len(control) == expected - 1


def test_tokenize_and_detokenize_are_inverse(server: Live) -> None:
    ids = server.post("/tokenize", {"prompt": HELLO}).json
    assert ids == {"tokens": tokenizer().encode(HELLO), "count": len(ids["tokens"]), "max_model_len": 256}
    assert server.post("/detokenize", {"tokens": ids["tokens"]}).json == {"prompt": HELLO}
    server.chat("a")
    chat = server.post("/tokenize", {"messages": [{"role": "user", "content": "a"}]}).json
    assert chat["tokens"] == server.engine.submitted[0].prompt


def test_the_models_are_listed(server: Live) -> None:
    listed = server.ask("GET", "/v1/models").json
    assert [model["id"] for model in listed["data"]] == ["demo", "alias"]
    assert listed["data"][0]["max_model_len"] == 256
    assert listed["data"][0]["weights"] == "int8"
    assert server.ask("GET", "/v1/models/alias").json["id"] == "alias"
    assert server.chat(model="alias").json["model"] == "alias"


def test_limits_are_visible_and_secrets_are_not() -> None:
    with live(keys=["top-secret-key"]) as keyed:
        bearer = {"authorization": "Bearer top-secret-key"}
        info = keyed.ask("GET", "/server_info", headers=bearer)
        assert info.json["limits"]["stop_strings"] == 4
        assert info.json["engine"]["max_model_len"] == 256
        assert b"secret" not in info.body


def test_unknown_fields_are_named_in_a_header(server: Live) -> None:
    answer = server.chat(frobnicate=1, stream_options=None, **{"ünïcode\n": 2})
    assert answer.status == 200
    assert answer.headers["x-fullbore-ignored-fields"] == "frobnicate, %C3%BCn%C3%AFcode%0A"
    assert "x-fullbore-ignored-fields" not in server.chat(user="u", metadata={"a": "b"}).headers
    with live(strict=True) as strict:
        refused = strict.chat(frobnicate=1)
        assert (refused.status, refused.error["param"], refused.error["code"]) == (
            400,
            "frobnicate",
            "unknown_field",
        )


def test_the_request_id_comes_back(server: Live) -> None:
    assert server.ask("GET", "/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for unfit in ("", "a b", "x" * 300):
        given = server.ask("GET", "/health", headers={"x-request-id": unfit}).headers["x-request-id"]
        assert given.startswith("req-")


def test_metrics_count_what_happened() -> None:
    with live() as counted:
        counted.chat()
        counted.chat(max_tokens=1)
        counted.chat(temperature=9)
        assert counted.nothing_leaks()
        text = counted.ask("GET", "/metrics").body.decode()
        assert 'fullbore:request_success_total{finished_reason="stop",model_name="demo"} 1.0' in text
        assert 'fullbore:request_success_total{finished_reason="length",model_name="demo"} 1.0' in text
        assert 'fullbore:time_to_first_token_seconds_count{model_name="demo"} 2.0' in text
        assert 'fullbore:model_info{model_name="demo",weights="int8"} 1.0' in text


def test_web_pages_may_call_only_when_allowed(server: Live) -> None:
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in server.ask("OPTIONS", "/v1/models", headers=preflight).headers
    with live(keys=["k"], allowed_origins=("https://app.example",)) as open_to_one:
        allowed = open_to_one.ask("OPTIONS", "/v1/models", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert open_to_one.ask("GET", "/v1/models", headers=preflight).status == 401
        other = open_to_one.ask(
            "OPTIONS", "/v1/models", headers=preflight | {"origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in other.headers


def test_flush_reaches_the_engine(server: Live) -> None:
    assert server.post("/flush_cache", {}).status == 200
    assert server.engine.flushed == 1
    from_a_page = server.ask("POST", "/flush_cache", b"", {"origin": "http://evil.example"})
    assert (from_a_page.status, from_a_page.error["code"]) == (403, "admin_only")
    assert server.engine.flushed == 1
