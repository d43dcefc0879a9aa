"""Stop strings in a stream: found wherever the borders of tokens fall, and never shown by half.

One Knuth-Morris-Pratt automaton for each string reads every character once. Its state is how much of the
string the text so far ends with: as long as that is not zero, so many characters cannot be let out yet.
"""

from collections.abc import Sequence


class StopStrings:
    """The stop string that is complete first ends the text; of those complete at once, the longest.

    With one stop string the text is ``text[: text.find(stop)]``, and that plus the string with ``include``.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        """``stops``: strings of at least one character. ``include``: the one found is part of the text."""
        if not all(stops):
            raise ValueError("a stop string is empty, expected at least one character")
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._borders = [_borders(stop) for stop in self._stops]
        self._states = [0] * len(self._stops)
        self._include = include
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string has ended it (then nothing follows)."""
        if self.found is not None:
            return "", True
        if not self._stops:
            return text, False
        for place, char in enumerate(text, len(self._held) + 1):
            for which, stop in enumerate(self._stops):
                state, border = self._states[which], self._borders[which]
                while state and stop[state] != char:
                    state = border[state - 1]
                state += stop[state] == char
                if state == len(stop):
                    shown = (self._held + text)[: place if self._include else place - state]
                    self.found, self._held = stop, ""
                    return shown, True
                self._states[which] = state
        whole = self._held + text
        certain = len(whole) - max(self._states)
        self._held = whole[certain:]
        return whole[:certain], False

    def flush(self) -> str:
        """What was kept back, once the text has ended and can no longer become a stop string."""
        rest, self._held = self._held, ""
        self._states = [0] * len(self._stops)
        return rest


def _borders(word: str) -> list[int]:
    """For every prefix of ``word``: the length of its longest proper suffix that is also its prefix."""
    borders = [0] * len(word)
    state = 0
    for place in range(1, len(word)):
        while state and word[state] != word[place]:
            state = borders[state - 1]
        state += word[state] == word[place]
        borders[place] = state
    return borders
