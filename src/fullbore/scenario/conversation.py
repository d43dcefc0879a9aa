"""What belongs to more than one request: system prompts that many share, and turns that follow each other."""

from dataclasses import dataclass
from typing import Any

from fullbore.errors import UsageError
from fullbore.scenario.fields import Table
from fullbore.scenario.length_values import read_lengths
from fullbore.scenario.lengths import MOST_TOKENS, Fixed, Lengths

ONCE, AT_ONCE = Fixed(1), Fixed(0)
MOST_GROUPS = 1_000_000
MOST_TURNS = 1000
LONGEST_THINK_MS = 86_400_000


@dataclass(frozen=True)
class Prompts:
    """What prompts begin with and what they are made of.

    Each conversation draws one of ``groups`` system prompts of ``shared_tokens``, which goes before its own
    first prompt. ``text``: a file to take content from; "" for random tokens.
    """

    shared_tokens: int = 0
    groups: int = 1
    text: str = ""

    def describe(self) -> str:
        """``after one of 4 shared prompts of 512, text of book.txt``; "" where nothing is special."""
        one_of = f"one of {self.groups} shared prompts" if self.groups > 1 else "a shared prompt"
        shared = f"after {one_of} of {self.shared_tokens}" if self.shared_tokens else ""
        return ", ".join(part for part in (shared, self.text and f"text of {self.text}") if part)

    def as_table(self) -> dict[str, Any]:
        shared = {"shared_tokens": self.shared_tokens, "groups": self.groups} if self.shared_tokens else {}
        return shared | ({"text": self.text} if self.text else {})


@dataclass(frozen=True)
class Conversation:
    """``turns`` requests, each with everything before it as its prompt. 1 turn: no conversation.

    ``turn_tokens``: what each turn but the first adds. ``think_ms``: from an answer's end to the next turn.
    """

    turns: Lengths = ONCE
    turn_tokens: Lengths = ONCE
    think_ms: Lengths = AT_ONCE

    def describe(self) -> str:
        """``conversations of 2-8 turns, 64 tokens in each later one, 1-30 s (lognormal, mean 8) between``."""
        if self.turns == ONCE:
            return ""
        think = f", {self.think_ms.describe(1000)} s between" if self.think_ms.most else ""
        later = f"{self.turn_tokens.describe()} tokens in each later one"
        return f"conversations of {self.turns.describe()} turns, {later}{think}"

    def as_table(self) -> dict[str, Any]:
        if self.turns == ONCE:
            return {}
        return {
            "turns": self.turns.as_table(),
            "turn_tokens": self.turn_tokens.as_table(),
            "think_seconds": self.think_ms.as_table(1000),
        }


PLAIN_PROMPTS, ONE_TURN = Prompts(), Conversation()


def read_prompts(table: Table) -> Prompts:
    """``[prompt]``."""
    table.refuse_others(("shared_tokens", "groups", "text"))
    if "groups" in table and "shared_tokens" not in table:
        raise UsageError(f"{table.source}: {table.path}groups share nothing; add {table.path}shared_tokens")
    return Prompts(
        shared_tokens=table.whole("shared_tokens", 1, MOST_TOKENS, default=0),
        groups=table.whole("groups", 1, MOST_GROUPS, default=1),
        text=table.file("text", "the name of a text file") if "text" in table else "",
    )


def read_conversation(table: Table) -> Conversation:
    """``[conversation]``."""
    table.refuse_others(("turns", "turn_tokens", "think_seconds"))
    turns = read_lengths(table, "turns", most=MOST_TURNS, what="turns")
    turn_tokens = read_lengths(table, "turn_tokens")
    if "think_seconds" not in table:
        return Conversation(turns, turn_tokens)
    think_ms = read_lengths(
        table, "think_seconds", unit=1000, least=0, most=LONGEST_THINK_MS, what="a number of seconds"
    )
    return Conversation(turns, turn_tokens, think_ms)
