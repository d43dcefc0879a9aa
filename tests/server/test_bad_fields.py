"""Every field with a bad value gets its status and envelope on every endpoint, and leaves nothing behind."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from live_server import VOCABULARY, Live, live
from model_folders import V3
from refusals import ALL, CHAT, DETOKENIZE, GENERATE, GOOD, TEXT, TOKENIZE, check

from fullbore.server.unsupported import NEUTRAL


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(template=V3) as running:
        yield running


@dataclass
class Case:
    """Fields put over a good body; the answer is a 400 with this code, about this field."""

    name: str
    fields: dict[str, Any]
    param: str | None = None  # None: the first of ``fields``
    code: str = "invalid_value"
    paths: tuple[str, ...] = GENERATE
    status: int = 400
    says: str = ""
    without: tuple[str, ...] = field(default=())

    @property
    def about(self) -> str:
        return self.param if self.param is not None else next(iter(self.fields))


def each(name: str, values: list[Any], **more: Any) -> list[Case]:
    """The same field with several values."""
    return [Case(f"{name}={str(value)[:24]}", {name: value}, **more) for value in values]


def user(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


HUGE = 2**63
LONE = {"type": "json_schema", "json_schema": {"name": "x"}}
ROLE, CONTENT = "messages[0].role", "messages[0].content"
COUNTS = ["1", 1.5, True, HUGE * 2, [1], {"a": 1}]
CASES = [
    # which model
    *each("model", ["other", "", "demo "], code="model_not_found", status=404, paths=ALL),
    *each("model", [7, ["demo"]], paths=ALL),
    # messages
    Case("no messages", {}, "messages", "missing_field", (CHAT,), without=("messages",)),
    Case("messages null", {"messages": None}, code="missing_field", paths=(CHAT,)),
    *each("messages", [[], "hi", {"role": "user"}], paths=(CHAT,)),
    Case(
        "a message that is a string",
        {"messages": ["hi"]},
        "messages[0]",
        paths=(CHAT, TOKENIZE),
        without=("prompt",),
    ),
    Case("no role", {"messages": [{"content": "x"}]}, ROLE, "missing_field", (CHAT,)),
    *[
        Case(f"role {role}", {"messages": [{"role": role, "content": "x"}]}, ROLE, paths=(CHAT,))
        for role in ("foo", 7, ["user"], "User")
    ],
    *[
        Case(f"role {role}", {"messages": [{"role": role, "content": "x"}]}, ROLE, "unsupported", (CHAT,))
        for role in ("tool", "function")
    ],
    *[
        Case(f"content {value}", {"messages": user(value)}, CONTENT, paths=(CHAT,))
        for value in (None, 7, {}, [])
    ],
    *[
        Case(
            f"part {kind}",
            {"messages": user([{"type": kind, kind: {"url": "http://127.0.0.1:1/x"}}])},
            f"{CONTENT}[0].type",
            "unsupported",
            (CHAT,),
        )
        for kind in ("image_url", "input_audio", "video_url", "file")
    ],
    Case("part of no kind", {"messages": user([{"text": "x"}])}, f"{CONTENT}[0].type", paths=(CHAT,)),
    Case(
        "part without text",
        {"messages": user([{"type": "text"}])},
        f"{CONTENT}[0].text",
        "missing_field",
        (CHAT,),
    ),
    Case("part a number", {"messages": user([7])}, f"{CONTENT}[0]", paths=(CHAT,)),
    Case("too many parts", {"messages": user([{"type": "text", "text": ""}] * 1025)}, CONTENT, paths=(CHAT,)),
    Case("too many messages", {"messages": user("x") * 4097}, says="4096", paths=(CHAT,)),
    Case(
        "tool calls",
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
        "messages[0].tool_calls",
        "unsupported",
        (CHAT,),
    ),
    Case(
        "system after user",
        {"messages": [*user("x"), {"role": "system", "content": "y"}]},
        code="template_error",
        says="must come first",
        paths=(CHAT,),
    ),
    Case(
        "continue and add",
        {
            "messages": [{"role": "assistant", "content": "x"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
        "continue_final_message",
        paths=(CHAT,),
    ),
    Case("continue a user", {"continue_final_message": True}, paths=(CHAT,)),
    *each("chat_template", ["{{ 7 }}"], code="unsupported", paths=(CHAT, TEXT, TOKENIZE)),
    *[
        Case(f"template kwarg {name}", {"chat_template_kwargs": {name: value}}, paths=(CHAT,))
        for name, value in [
            ("tokenize", False),
            ("chat_template", "x"),
            ("messages", "x"),
            ("add_generation_prompt", 1),
            ("__class__", "x"),
            ("a b", "x"),
            ("deep", {"a": 1}),
            ("long", "x" * 4097),
        ]
    ],
    Case("many template kwargs", {"chat_template_kwargs": {f"k{i}": 1 for i in range(33)}}, paths=(CHAT,)),
    # sampling
    *each("temperature", [-1, 2.1, "hot", True, [1], 10**40]),
    *each("top_p", [0, 1.1, -0.1, "1"]),
    *each("top_k", [-2, 1.5, "1", True]),
    *each("min_p", [2, -0.1]),
    *each("presence_penalty", [-2.1, 2.1, "x"]),
    *each("frequency_penalty", [-2.1, 2.1, {}]),
    *each("repetition_penalty", [0, -1, 1e300]),
    *each("n", [0, -1, 10**9, 1.5, True]),
    *each("n", [129], says="128"),
    *each("max_tokens", [0, -1, *COUNTS]),
    *each("max_completion_tokens", [0, -1, 1.5]),
    *each("min_tokens", [-1, 1.5]),
    Case("min above max", {"min_tokens": 5, "max_tokens": 4}),
    Case("min without max", {"min_tokens": 5}),
    Case("min with null max", {"min_tokens": 5, "max_tokens": None}),
    *each("seed", [-HUGE - 1, HUGE, 10**40, 1.5, "1"]),
    *each("stop", ["", [""], ["a"] * 5, ["a", ""], 7, [7], {}, "x" * 2**20, ["a", None]]),
    *each("stop_token_ids", [[VOCABULARY], [-1], [True], [1.5], ["1"], 7, [1] * 257]),
    *each(
        "logit_bias",
        [
            {"abc": 1},
            {str(VOCABULARY): 1},
            {"-1": 1},
            {"²": 1},
            {"9" * 30: 1},
            [1],
            {"": 1},
            {str(i): 0 for i in range(1025)},
        ],
    ),
    *[
        Case(f"bias {value}", {"logit_bias": {"1": value}}, "logit_bias.1")
        for value in (1e9, "x", -101, True)
    ],
    *each("ignore_eos", ["yes", 1]),
    *each("stream", ["yes", 1]),
    *each("stream_options", [{"include_usage": True}, {}]),
    Case("stream_options a list", {"stream_options": [1], "stream": True}),
    Case(
        "include_usage a word",
        {"stream_options": {"include_usage": "x"}, "stream": True},
        "stream_options.include_usage",
    ),
    *each("cache_salt", ["x" * 10_240, "a\n", "\x00", "a\x7f", 7]),
    *each("return_token_ids", [1]),
    # logprobs
    *each("logprobs", [1, "true", 21], paths=(CHAT,)),
    *each("logprobs", [True, 21, -1, "1"], paths=(TEXT,)),
    *[
        Case(f"top_logprobs {n}", {"top_logprobs": n, "logprobs": True}, paths=(CHAT,))
        for n in (21, -2, 1.5, True)
    ],
    *each("top_logprobs", [3, 0], paths=(CHAT,)),
    Case("top_logprobs with false", {"top_logprobs": 3, "logprobs": False}, paths=(CHAT,)),
    Case(
        "echo and logprobs",
        {"echo": True, "logprobs": 1, "max_tokens": 1},
        "logprobs",
        "unsupported",
        (TEXT,),
    ),
    *each("prompt_logprobs", [1, 0], code="unsupported"),
    # what is not there yet
    *each(
        "response_format",
        [{"type": "json_object"}, {"type": "json_schema"}, LONE, "json", [1]],
        code="unsupported",
    ),
    *each(
        "tools",
        [
            [{"type": "function", "function": {"name": "f"}}],
            "x",
            [{"type": "function", "function": {"name": "a b"}}],
        ],
        code="unsupported",
    ),
    *each("tools", [[]]),
    *each(
        "tool_choice",
        ["auto", "required", {"type": "function", "function": {"name": "f"}}],
        code="unsupported",
    ),
    *each("best_of", [2, 0, "x", True], code="unsupported"),
    *each("suffix", ["x"], code="unsupported"),
    *each("bad_words", [["x"], ["x"] * 10**6], code="unsupported"),
    *each("modalities", [["text", "audio"]], code="unsupported"),
    *each("prompt_embeds", ["AAAA"], code="unsupported"),
    *each("guided_regex", ["(a+)+b"], code="unsupported"),
    *each("guided_json", [{"type": "something"}], code="unsupported"),
    Case("two constraints", {"guided_regex": "a", "guided_json": {}}, "guided_json", "unsupported"),
    # prompts
    Case("no prompt", {}, "prompt", "missing_field", (TEXT,), without=("prompt",)),
    Case("prompt null", {"prompt": None}, code="missing_field", paths=(TEXT,)),
    *each(
        "prompt",
        [
            "",
            [],
            [[]],
            [""],
            7,
            {},
            [None],
            [5, "a"],
            ["a", 5],
            [[5], "a"],
            ["a", [5]],
            [[5], []],
            [-1],
            [VOCABULARY],
            [True],
            [1.5],
            [[-1]],
            [[True]],
            [10**40],
            ["x"] * 1025,
        ],
        paths=(TEXT,),
    ),
    Case("too many answers", {"prompt": ["x"] * 100, "n": 11}, "n", paths=(TEXT,)),
    *each("echo", [1], paths=(TEXT,)),
    *each(
        "prompt",
        [[5] * 256, [[5] * 300], " x" * 300, "x" * 10 * 2**20],
        code="context_length_exceeded",
        says="256",
        paths=(TEXT,),
    ),
    Case(
        "a long conversation",
        {"messages": user(" x" * 300)},
        code="context_length_exceeded",
        paths=(CHAT, TOKENIZE)[:1],
    ),
    Case("10 MB", {"messages": user("x" * 10 * 2**20)}, code="context_length_exceeded", paths=(CHAT,)),
    *[
        Case(
            f"10 MB of the assistant's {name}",
            {"messages": [{"role": "assistant", "content": "", name: "x" * 10 * 2**20}]},
            "messages",
            "context_length_exceeded",
            (CHAT,),
        )
        for name in ("content", "reasoning_content", "reasoning")
    ],
    *each("tokens", [[VOCABULARY], [-1], [True], "x", [1] * 257], paths=(DETOKENIZE,)),
    Case("no tokens", {}, "tokens", "missing_field", (DETOKENIZE,), without=("tokens",)),
    *each("prompt", [7, [5]], paths=(TOKENIZE,)),
]
TABLE = [pytest.param(case, path, id=f"{path} {case.name}") for case in CASES for path in case.paths]


@pytest.fixture(autouse=True)
def _nothing_submitted(server: Live) -> None:
    server.engine.submitted.clear()


@pytest.mark.parametrize(("case", "path"), TABLE)
def test_a_bad_field_is_refused_by_name(server: Live, case: Case, path: str) -> None:
    body = {**{k: v for k, v in GOOD[path].items() if k not in case.without}, **case.fields}
    answer = server.post(path, body)
    check(server, answer, case.status, case.code, case.about)
    assert case.says in answer.error["message"]


@pytest.mark.parametrize("name", sorted(set(NEUTRAL) - {"skip_special_tokens"}))
def test_a_field_is_refused_or_asks_for_nothing(server: Live, name: str) -> None:
    for path in GENERATE:
        check(server, server.post(path, {**GOOD[path], name: {"some": "thing"}}), 400, "unsupported", name)
        for value in (None, *NEUTRAL[name]):
            answer = server.post(path, {**GOOD[path], name: value})
            assert answer.status == 200
            assert "x-fullbore-ignored-fields" not in answer.headers
        server.engine.submitted.clear()


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": user("")},
        {"messages": [*user("x"), {"role": "assistant", "content": "y"}]},
        {"messages": [{"role": "developer", "content": "x"}, *user("y", name="bob")]},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"logit_bias": {}},
        {"stop": []},
        {"stop": None},
        {"temperature": 0, "n": 2},
        {"temperature": 2},
        {"top_p": 1e-9},
        {"seed": -HUGE},
        {"max_tokens": 2**31 - 1},
    ],
)
def test_odd_inputs_that_are_right(server: Live, fields: dict[str, Any]) -> None:
    answer = server.post(CHAT, {**GOOD[CHAT], **fields})
    assert answer.status == 200, answer.body
    assert server.nothing_leaks()


def test_the_longest_prompt_that_fits(server: Live) -> None:
    answer = server.complete([5] * 255)
    assert answer.json["usage"]["completion_tokens"] == 1
    assert answer.json["choices"][0]["finish_reason"] == "length"
