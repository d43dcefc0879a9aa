"""Which text of a prompt may become a control token: the template's own, never a client's.

Added tokens (``<｜User｜>``, ``<think>``, ...) are looked for in rendered text only after a ``Disguise`` has
changed one character of every such string that a message brought along; the character comes back once the
text has been cut at the real ones. A disguised text keeps its length and almost all of its characters, so a
template can still split, strip and compare it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

# Noncharacters first, then the private planes: code points that text has no use for.
_SPARE = (range(0xFDD0, 0xFDF0), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


@dataclass(frozen=True)
class AddedToken:
    """An entry of ``added_tokens`` in tokenizer.json; the strips take white space beside it away."""

    id: int
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False


class ControlTokens:
    """Finds added tokens in text: leftmost, and of those that start there the longest, as tokenizers does."""

    def __init__(self, tokens: Iterable[AddedToken], shown: Iterable[str] = ()) -> None:
        """``shown``: control strings that stay recognisable in trusted texts."""
        self._tokens: dict[str, AddedToken] = {token.text: token for token in tokens}
        self.any = _pattern(self._tokens)
        self.not_shown = _pattern(set(self._tokens) - set(shown))
        # Ends of tokens that a text could complete, or begin, together with what stands beside it.
        self.openings = frozenset(text[:cut] for text in self._tokens for cut in range(1, len(text)))
        self.endings = frozenset(text[cut:] for text in self._tokens for cut in range(1, len(text)))
        self._middles = "\0".join(text[1:-1] for text in self._tokens)  # one text to search, not a thousand
        self.longest = max(map(len, self._tokens), default=0)
        self.chars = frozenset().union(*self._tokens)

    def contains(self, text: str) -> bool:
        """Whether ``text`` is a part of a control string that neither begins nor ends it."""
        return len(text) + 1 < self.longest and text in self._middles

    def split(self, text: str) -> list[str | int]:
        """``text`` as plain strings (never empty) and the ids of the control tokens between them."""
        parts: list[str | int] = []
        start = 0
        strip = False  # the token before asked for it
        for match in self.any.finditer(text) if self._tokens else ():
            token = self._tokens[match.group()]
            plain = text[start : match.start()]
            plain = plain.lstrip() if strip else plain
            plain = plain.rstrip() if token.lstrip else plain
            parts += [plain, token.id] if plain else [token.id]
            start, strip = match.end(), token.rstrip
        plain = text[start:].lstrip() if strip else text[start:]
        return [*parts, plain] if plain else parts


class Disguise:
    """Makes control strings of one request's texts unrecognisable until ``reveal``."""

    def __init__(self, control: ControlTokens, texts: Iterable[str]) -> None:
        """``texts``: every string that takes part in the rendering; no stand-in occurs in one of them."""
        used = control.chars.union(*texts)
        self._spare: Iterator[str] = (
            char for char in map(chr, chain.from_iterable(_SPARE)) if char not in used
        )
        self._control = control
        self._stand_ins: dict[str, str] = {}

    def spare(self) -> str:
        """A character that occurs nowhere else in this request; ValueError if its texts use them all."""
        char = next(self._spare, None)
        if char is None:
            raise ValueError("its texts use every private character")
        return char

    def hide(self, text: str, trusted: bool = False, borders: bool = True) -> str:
        """``text`` with one character of every control string replaced by a stand-in.

        ``trusted``: except those that the control tokens were told to show.
        ``borders``: also of what could become one together with text beside it; not for a word that the
        template compares with its own.
        """
        pattern = self._control.not_shown if trusted else self._control.any
        places = set(_starts(pattern, text))
        if borders:
            places.update(self._borders(text))
        if not places:
            return text
        chars = list(text)
        for place in places:
            char = chars[place]
            if char not in self._stand_ins:
                self._stand_ins[char] = self.spare()
            chars[place] = self._stand_ins[char]
        return "".join(chars)

    def reveal(self, text: str) -> str:
        """The text as it was before ``hide``."""
        return text.translate({ord(stand_in): char for char, stand_in in self._stand_ins.items()})

    def _borders(self, text: str) -> Iterator[int]:
        """Where ``text``, stripped or not, could complete a control string together with its neighbour."""
        longest = self._control.longest
        for shape in {text, text.strip()} - {""}:
            start = text.find(shape)
            sizes = range(1, min(longest, len(shape) + 1))
            if any(shape[:size] in self._control.endings for size in sizes) or self._control.contains(shape):
                yield start
            if any(shape[-size:] in self._control.openings for size in sizes):
                yield start + len(shape) - 1


def _starts(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    """Every position where a match begins, overlapping ones too."""
    match = pattern.search(text)
    while match:
        yield match.start()
        match = pattern.search(text, match.start() + 1)


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches the longest of ``words`` at a place.

    Written as a tree of shared beginnings: a plain alternation of a thousand words would try each of them at
    every ``<``.
    """
    ordered = sorted(set(words))
    return re.compile(_tree(ordered, 0) if ordered else r"(?!)")


def _tree(words: list[str], depth: int) -> str:
    """The pattern for sorted, different ``words`` that agree in their first ``depth`` characters."""
    ends_here = len(words[0]) == depth
    words = words[1:] if ends_here else words
    if not words:
        return ""
    branches: dict[str, list[str]] = {}
    for word in words:
        branches.setdefault(word[depth], []).append(word)
    options = []
    for group in branches.values():
        shared = depth + 1  # the longest common beginning of a sorted list is that of its ends
        while shared < min(len(group[0]), len(group[-1])) and group[0][shared] == group[-1][shared]:
            shared += 1
        options.append(re.escape(group[0][depth:shared]) + _tree(group, shared))
    joined = options[0] if len(options) == 1 and not ends_here else f"(?:{'|'.join(options)})"
    return f"{joined}?" if ends_here else joined


def strings_in(value: object, depth: int = 64) -> Iterator[str]:
    """Every string in JSON data, keys included; ValueError beyond ``depth`` levels."""
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from strings_in(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item, depth - 1)
