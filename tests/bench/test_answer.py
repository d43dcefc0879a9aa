"""What a streamed answer says, however its bytes are cut, and which of its events carry tokens."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.bench.answer import LONGEST_LINE, Answer

TEXT = {"choices": [{"text": " word", "finish_reason": None}], "usage": None}
HELD_BACK = {"choices": [{"text": "", "finish_reason": None}]}
ENDS = {"choices": [{"text": "", "finish_reason": "length"}]}
ENDS_WITH_TEXT = {"choices": [{"text": "!", "finish_reason": "stop"}]}
COUNTS = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
CHAT_OPENS = {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
CHAT_OPENS_SHORT = {"choices": [{"delta": {"role": "assistant"}}]}
CHAT_THINKS = {"choices": [{"delta": {"reasoning_content": "hm"}, "finish_reason": None}]}
CHAT_THINKS_TOO = {"choices": [{"delta": {"reasoning": "hm"}}]}
CHAT_SAYS = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": None}]}
CHAT_SAYS_ITS_ROLE = {"choices": [{"delta": {"role": "assistant", "content": "Hi"}}]}
CHAT_CALLS = {"choices": [{"delta": {"role": "assistant", "tool_calls": [{"index": 0}]}}]}
CHAT_HELD_BACK = {"choices": [{"delta": {"content": ""}, "finish_reason": None}]}
CHAT_ENDS = {"choices": [{"delta": {}, "finish_reason": "stop"}]}

CARRIES = {
    "text": (TEXT, True),
    "a token held back": (HELD_BACK, True),
    "the end": (ENDS, False),
    "the end with its text": (ENDS_WITH_TEXT, True),
    "usage": (COUNTS, False),
    "usage without choices": ({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, False),
    "role": (CHAT_OPENS, False),
    "role alone": (CHAT_OPENS_SHORT, False),
    "thought": (CHAT_THINKS, True),
    "thought by its other name": (CHAT_THINKS_TOO, True),
    "content": (CHAT_SAYS, True),
    "content beside a role": (CHAT_SAYS_ITS_ROLE, True),
    "a call": (CHAT_CALLS, True),
    "a chat's token held back": (CHAT_HELD_BACK, True),
    "a chat's end": (CHAT_ENDS, False),
}
STREAM_EVENTS = [CHAT_OPENS, CHAT_THINKS, CHAT_SAYS, CHAT_HELD_BACK, CHAT_ENDS, TEXT, COUNTS, ENDS]


def sse(event: Any, newline: bytes = b"\n", blank: bytes = b" ") -> bytes:
    return b"data:" + blank + json.dumps(event).encode() + newline * 2


def read(*events: Any) -> Answer:
    answer = Answer(lambda: None, keep_text=True)
    for number, event in enumerate(events):
        answer.take(sse(event), float(number))
    return answer


@pytest.mark.parametrize(("event", "carries"), CARRIES.values(), ids=list(CARRIES))
def test_which_events_carry_tokens(event: Any, carries: bool) -> None:
    assert list(read(TEXT, event).chunks_s) == ([0.0, 1.0] if carries else [0.0])


@pytest.mark.parametrize("end", [ENDS, CHAT_ENDS])
def test_an_answer_that_is_only_an_end_is_one_token(end: Any) -> None:
    answer = read(CHAT_OPENS, end)
    assert list(answer.chunks_s) == [1.0]
    assert answer.finished


@given(
    events=st.lists(st.sampled_from(STREAM_EVENTS), max_size=12),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    blank=st.sampled_from([b"", b" "]),
)
def test_it_does_not_matter_how_the_bytes_are_cut(
    events: list[Any], cuts: list[int], newline: bytes, blank: bytes
) -> None:
    stream = b": a comment\n\n" + b"".join(sse(event, newline, blank) for event in events)
    stream += b"event: x\nid: 1\n" + b"data: [DONE]\n\n"
    edges = sorted({0, *(cut % len(stream) for cut in cuts), len(stream)})
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    answer = Answer(count, keep_text=True)
    ended = [answer.take(stream[a:b], 0.0) for a, b in pairwise(edges)]
    whole = read(*events)
    assert any(ended)
    assert counted == len(answer.chunks_s) == len(whole.chunks_s)
    assert answer.text == whole.text
    assert (answer.finished, answer.usage) == (whole.finished, whole.usage)


def test_the_answer_is_kept_where_it_is_wanted_and_thoughts_never() -> None:
    assert read(CHAT_OPENS, CHAT_THINKS, CHAT_SAYS, CHAT_SAYS, CHAT_ENDS).text == "HiHi"
    silent = Answer(lambda: None)
    silent.take(sse(TEXT), 0.0)
    assert silent.text == ""


@pytest.mark.parametrize(
    "error",
    [{"error": "died"}, {"error": {"message": "died", "code": 500}}, {"object": "error", "message": "died"}],
)
def test_an_error_ends_it(error: Any) -> None:
    answer = Answer(lambda: None)
    assert answer.take(sse(TEXT) + sse(error) + sse(TEXT), 0.0)
    assert "died" in str(answer.error)
    assert len(answer.chunks_s) == 1


@pytest.mark.parametrize("line", [b"data: {nonsense\n\n", b"data: [1]\n\n", b'data: {"choices": 3}\n\n'])
def test_what_cannot_be_read_is_said(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        Answer(lambda: None).take(line, 0.0)


def test_a_line_without_end_is_refused() -> None:
    answer = Answer(lambda: None)
    answer.take(b"x" * LONGEST_LINE, 0.0)
    with pytest.raises(ValueError, match="a line of more than"):
        answer.take(b"x", 0.0)
