"""Splits a stream into thought and answer at ``<think>`` and ``</think>``.

Two habits of models are met: the prompt has opened the thought (R1: the output begins inside it), or the
model opens it itself with the first thing it writes (R1-0528). Tags anywhere else are text: an answer may
speak of ``<think>``. Line ends next to a tag belong to the tag.
"""

from enum import Enum

OPEN, CLOSE = "<think>", "</think>"
_LEAD_LIMIT = 64  # so much white space before the tag is still a beginning


class _At(Enum):
    START = 0
    THOUGHT = 1
    ANSWER = 2


class ReasoningSplitter:
    """``push`` and ``flush`` return ``(reasoning, content)``; joined, they do not depend on the chunks.

    Text without a thought passes unchanged. In a thought that never closes, nothing is lost but line ends
    before its first character.
    """

    def __init__(self, inside: bool) -> None:
        """``inside``: the prompt ended inside an open thought."""
        self._inside = inside
        self._at = _At.START
        self._pending = ""  # may be the beginning of a tag
        self._line_ends = 0  # kept back: they are the tag's if one follows
        self._trim = False  # drop line ends until the first other character

    @property
    def inside(self) -> bool:
        """Whether what comes next is thought, as far as is known."""
        return self._inside if self._at is _At.START else self._at is _At.THOUGHT

    def push(self, text: str) -> tuple[str, str]:
        if self._at is _At.START:
            text = self._start(self._pending + text)
        if self._at is _At.THOUGHT:
            return self._thought(text)
        if self._at is _At.ANSWER:
            return "", self._trimmed(text)
        return "", ""

    def flush(self) -> tuple[str, str]:
        """What was kept back, at the end of the text."""
        rest = "\n" * self._line_ends + self._pending
        self._pending, self._line_ends = "", 0
        if self.inside:
            return (self._trimmed(rest) if self._at is _At.THOUGHT else rest.lstrip("\n")), ""
        return "", rest

    def _start(self, text: str) -> str:
        """Decides how the output begins; returns what is left to read, or keeps all of it back."""
        beginning = text.lstrip()
        undecided = OPEN.startswith(beginning) and len(text) - len(beginning) <= _LEAD_LIMIT
        if undecided and beginning != OPEN:
            self._pending = text
            return ""
        self._pending = ""
        if beginning.startswith(OPEN) and len(text) - len(beginning) <= _LEAD_LIMIT:
            text = beginning[len(OPEN) :]
            self._at = _At.THOUGHT
        else:
            self._at = _At.THOUGHT if self._inside else _At.ANSWER
        self._trim = self._at is _At.THOUGHT
        return text

    def _thought(self, text: str) -> tuple[str, str]:
        text = self._pending + text
        thought, closed, rest = text.partition(CLOSE)
        if closed:
            self._pending = ""
        else:
            unsure = next(size for size in range(len(CLOSE) - 1, -1, -1) if thought.endswith(CLOSE[:size]))
            self._pending = thought[len(thought) - unsure :]
            thought = thought[: len(thought) - unsure]
        thought = self._trimmed(thought)
        body = thought.rstrip("\n")
        if body:
            body = "\n" * self._line_ends + body
            self._line_ends = 0
        self._line_ends += len(thought) - len(thought.rstrip("\n"))
        if not closed:
            return body, ""
        self._at, self._line_ends, self._trim = _At.ANSWER, 0, True
        return body, self._trimmed(rest)

    def _trimmed(self, text: str) -> str:
        """``text`` without the line ends that still belong to a tag before it."""
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        return text
