"""What a request body asks of the mock server."""

from dataclasses import dataclass
from typing import Any

import msgspec

DEFAULT_TOKENS = 16  # as the completions API has it
MOST_TOKENS = 10_000_000


class Refused(Exception):
    """An answer with this status and these words instead of what was asked for."""

    def __init__(self, status: int, message: str, headers: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers  # whole header lines


@dataclass(frozen=True)
class Limits:
    """What the model that there is not would take. ``answer_tokens``: where it ends by itself; 0: nowhere."""

    model: str = "mock"
    vocab_size: int = 100_000
    max_model_len: int = 131_072
    answer_tokens: int = 0


@dataclass(frozen=True)
class Question:
    """One request, with the length of its answer decided."""

    chat: bool
    stream: bool
    usage: bool  # of a stream, in an event of its own
    input_tokens: int
    output_tokens: int
    finish_reason: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Message(msgspec.Struct):
    role: str
    content: str | list[Any] | None = None


class _Body(msgspec.Struct):
    """Fields that have an effect here; any others are ignored."""

    model: str | None = None
    prompt: str | list[Any] | None = None
    messages: list[_Message] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


_decoder = msgspec.json.Decoder(_Body)


def read(body: bytes, chat: bool, limits: Limits) -> Question:
    """Raises Refused, with status 400 or, for another model, 404."""
    try:
        asked = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the body is not what is expected here: {error}") from error
    if asked.model is not None and asked.model != limits.model:
        raise Refused(404, f"the model {asked.model!r} is not served here; expected {limits.model!r}")
    if asked.n not in (None, 1):
        raise Refused(400, f"n is {asked.n}, expected 1: this server gives one answer a request")
    input_tokens = _message_tokens(asked) if chat else _prompt_tokens(asked.prompt, limits.vocab_size)
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    most = DEFAULT_TOKENS if most is None else most
    least = asked.min_tokens or 0
    if not 1 <= most <= MOST_TOKENS:
        raise Refused(400, f"max_tokens is {most}, expected 1 to {MOST_TOKENS}")
    if not 0 <= least <= most:
        raise Refused(400, f"min_tokens is {least}, expected 0 to max_tokens, which is {most}")
    if input_tokens + most > limits.max_model_len:
        raise Refused(
            400,
            f"{input_tokens} tokens of prompt and {most} of answer are more than the {limits.max_model_len} "
            "that this server takes (see --max-model-len)",
        )
    output_tokens = most
    if limits.answer_tokens and not asked.ignore_eos:
        output_tokens = min(most, max(limits.answer_tokens, least))
    return Question(
        chat=chat,
        stream=bool(asked.stream),
        usage=asked.stream_options is not None and asked.stream_options.include_usage,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        finish_reason="length" if output_tokens == most else "stop",
    )


def _prompt_tokens(prompt: str | list[Any] | None, vocab_size: int) -> int:
    """Token ids are counted, and of text the words."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise Refused(400, f"prompt is a list of {len(prompt)} prompts, expected one prompt a request")
        prompt = prompt[0]
    if isinstance(prompt, str):
        return len(prompt.split())
    if not prompt:
        raise Refused(400, "prompt is missing or empty, expected text or a list of token ids")
    # By type first: a bool is an int, and this runs for every token.
    if set(map(type, prompt)) != {int} or min(prompt) < 0 or max(prompt) >= vocab_size:
        raise Refused(400, f"prompt is no list of token ids, expected integers from 0 to {vocab_size - 1}")
    return len(prompt)


def _message_tokens(asked: _Body) -> int:
    if not asked.messages:
        raise Refused(400, "messages is missing or empty, expected a list of messages")
    return sum(len(_text(message).split()) for message in asked.messages)


def _text(message: _Message) -> str:
    """Content, or the text parts of it."""
    if isinstance(message.content, list):
        parts = [part.get("text") for part in message.content if isinstance(part, dict)]
        return " ".join(part for part in parts if isinstance(part, str))
    return message.content or ""
