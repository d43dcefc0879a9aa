"""The bytes of answers. What is the same in every chunk of a stream is made once."""

import time
from http import HTTPStatus
from typing import Any

import msgspec

from fullbore import __version__
from fullbore.bench.mock.question import Question

WORD = " word"  # a token
DONE = b"data: [DONE]\n\n"
LAST_PIECE = b"0\r\n\r\n"  # of a body in pieces: its end


def response(status: int, body: bytes, headers: str = "", kind: str = "application/json") -> bytes:
    """A whole response. ``headers``: more header lines, each with its line end."""
    return _head(status, f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}") + body


def json_response(value: object, status: int = 200, headers: str = "") -> bytes:
    return response(status, msgspec.json.encode(value), headers)


def error_response(status: int, message: str, headers: str = "") -> bytes:
    return json_response({"error": error(status, message)}, status, headers)


def error(status: int, message: str) -> dict[str, object]:
    """An error as OpenAI's API words it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": message, "type": kind, "param": None, "code": status}


def stream_head() -> bytes:
    """The beginning of a response whose body comes in pieces."""
    return _head(
        200, "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n"
    )


def piece(body: bytes) -> bytes:
    """One piece of such a body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(value: object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)


def _head(status: int, headers: str) -> bytes:
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: fullbore-mock/{__version__}\r\n"
    return (line + headers + "\r\n").encode("latin-1")


class Answer:
    """The answer to one question, as a stream's pieces or as one body."""

    def __init__(self, question: Question, number: int, model: str) -> None:
        self._question = question
        kind = "chat.completion" if question.chat else "text_completion"
        self._base: dict[str, Any] = {
            "id": f"{'chatcmpl' if question.chat else 'cmpl'}-{number}",
            "object": f"{kind}.chunk" if question.chat and question.stream else kind,
            "created": int(time.time()),
            "model": model,
        }
        self._made: dict[int, bytes] = {}  # tokens of a chunk in the middle -> its piece

    def chunk(self, tokens: int, first: bool, last: bool) -> bytes:
        """The pieces with which ``tokens`` tokens come; the last ones say why, how many, and goodbye."""
        if first or last:
            ready = piece(self._event(tokens, first, last))
            return ready + self._farewell() if last else ready
        if tokens not in self._made:
            self._made[tokens] = piece(self._event(tokens, first, last))
        return self._made[tokens]

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        asked = self._question
        text = WORD * asked.output_tokens
        content: dict[str, Any] = {"text": text}
        if asked.chat:
            content = {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": asked.finish_reason}
        return {**self._base, "choices": [choice], "usage": self._usage()}

    def _event(self, tokens: int, first: bool, last: bool) -> bytes:
        text = WORD * tokens
        content: dict[str, Any] = {"text": text}
        if self._question.chat:
            content = {"delta": {"role": "assistant", "content": text} if first else {"content": text}}
        # Why it ended is said with the last token, as vLLM does: every event with a choice is then a token's.
        reason = self._question.finish_reason if last else None
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        return event({**self._base, "choices": [choice]})

    def _farewell(self) -> bytes:
        usage = event({**self._base, "choices": [], "usage": self._usage()}) if self._question.usage else b""
        return piece(usage + DONE) + LAST_PIECE

    def _usage(self) -> dict[str, int]:
        prompt, answer = self._question.input_tokens, self._question.output_tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
