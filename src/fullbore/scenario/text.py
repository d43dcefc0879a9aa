"""Prompts from a real text: windows of a file, each with a mark that no other prompt begins with."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fullbore.errors import UsageError
from fullbore.scenario.fields import read_text
from fullbore.scenario.prompt import Segment

CHARACTERS_PER_TOKEN = 4  # of English in common vocabularies; the server says what it counted
MARK_TOKENS = 6  # about what eight hexadecimal digits and a blank cost


@dataclass(frozen=True)
class TextFile:
    """Text of about as many tokens as asked for: ``CHARACTERS_PER_TOKEN`` characters each, cut between words.

    Two windows may begin at the same word, so each begins with a mark made of its seed: a prefix cache
    must know only what the scenario says is shared.
    """

    file: str
    text: str = field(repr=False)

    @classmethod
    def open(cls, file: str, most_tokens: int, what: str = "the text") -> "TextFile":
        """UsageError for a file that is not text or too short for a segment of ``most_tokens``."""
        text = " ".join(read_text(file, what).split())
        have = len(text) // CHARACTERS_PER_TOKEN
        if have < most_tokens:
            raise UsageError(
                f"{what} {file} is about {have} tokens long, and a prompt may need {most_tokens}; "
                "use a longer text or shorter prompts"
            )
        return cls(file, text)

    @property
    def name(self) -> str:
        return f"text of {self.file}"

    @cached_property
    def _words(self) -> tuple[int, ...]:
        """Where each word begins."""
        return (0, *(place + 1 for place, letter in enumerate(self.text) if letter == " "))

    def render(self, prompt: Sequence[Segment]) -> str:
        return " ".join(self._window(part) for part in prompt)

    def _window(self, part: Segment) -> str:
        mark = hashlib.blake2b(part.seed.encode(), digest_size=4).hexdigest()
        length = (part.tokens - MARK_TOKENS) * CHARACTERS_PER_TOKEN
        if length <= 0:
            return mark[: part.tokens]
        chance = random.Random(part.seed).random()
        begin = self._words[int(chance * len(self._words))]
        begin = min(begin, max(0, len(self.text) - length))
        begin = self.text.rfind(" ", 0, begin) + 1 if begin else 0  # back to where a word begins
        end = self.text.find(" ", begin + length)
        return f"{mark} {self.text[begin : end if end > 0 else len(self.text)]}"
