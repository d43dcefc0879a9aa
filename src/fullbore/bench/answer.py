"""What a streamed answer says: which of its events carry tokens, and how it ended."""

from array import array
from collections.abc import Callable
from typing import Any

import msgspec

LONGEST_LINE = 8 * 2**20  # bytes of one event; a server that sends more is not one of ours to read


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Delta(msgspec.Struct, gc=False):
    """Of a chat. Thoughts have one of two names; a tool's call is written by tokens too."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class Choice(msgspec.Struct, gc=False):
    """``text`` of a completion, ``delta`` of a chat."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None

    def carries_tokens(self) -> bool:
        """Text does; without text, what neither opens nor ends an answer is a token held back."""
        opens = False
        if self.delta is not None:
            said = self.delta
            if said.content or said.reasoning_content or said.reasoning or said.tool_calls:
                return True
            opens = said.role is not None
        return bool(self.text) or (self.finish_reason is None and not opens)


class Event(msgspec.Struct, gc=False):
    """What is read of one event of the stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None  # an object or a string, as servers please
    object: str | None = None  # "error" in older servers, with the reason in ``message``
    message: Any = None


_decode = msgspec.json.Decoder(Event).decode


class Answer:
    """One answer as it streams in. ``chunks_s``: the arrival of each chunk that carried tokens.

    Of the text nothing is kept unless ``keep_text``; thoughts never are, as no next turn repeats them.
    """

    def __init__(self, on_chunk: Callable[[], None], keep_text: bool = False) -> None:
        self.chunks_s = array("d")
        self.usage: Usage | None = None
        self.finished = False  # with a reason
        self.error: Any = None
        self._on_chunk = on_chunk
        self._text: list[str] | None = [] if keep_text else None
        self._rest = b""  # of a line whose end has not come

    @property
    def text(self) -> str:
        return "".join(self._text or ())

    def take(self, piece: bytes, now_s: float) -> bool:
        """Read the next bytes, which came at ``now_s``; True when nothing follows. Raises ValueError."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    return True
                if self._read(_decode(payload), now_s):
                    return True
        return False

    def _read(self, event: Event, now_s: float) -> bool:
        if event.error is not None or event.object == "error":
            self.error = event.message if event.error is None else event.error
            return True
        if event.usage is not None:
            self.usage = event.usage
        for choice in event.choices or ():
            if choice.finish_reason is not None:
                self.finished = True
            # What only says why it ended carries no token, unless nothing came before it.
            if choice.carries_tokens() or (self.finished and not self.chunks_s):
                self.chunks_s.append(now_s)
                self._on_chunk()
            if self._text is not None:
                self._text.append(choice.text or (choice.delta and choice.delta.content) or "")
        return False
