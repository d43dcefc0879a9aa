"""The tokens of one request as a runner knows them: values, and for the last ones the promise of a value."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fullbore.engine.messages import Sampling
from fullbore.engine.step import Started


class Sequence:
    """The prompt, then what was sampled.

    The last tokens may be on a device whose work nobody has waited for: then ``awaited`` says which launch
    samples the one at a position, and in which of its rows.
    """

    __slots__ = ("_page_array", "_pages", "awaited", "length", "prompt_length", "sampling", "seed", "tokens")

    def __init__(self, started: Started) -> None:
        self.sampling: Sampling = started.sampling
        self.seed = started.sampling.seed or 0
        self.prompt_length = len(started.prompt)
        self.length = self.prompt_length  # awaited tokens included
        self.tokens: npt.NDArray[np.int64] = np.zeros(self.length + 64, dtype=np.int64)
        self.tokens[: self.length] = started.prompt
        self.awaited: dict[int, tuple[Any, int]] = {}
        self._pages: tuple[int, ...] = ()
        self._page_array: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)

    def expect(self, position: int, launch: Any, row: int) -> None:
        """The last token becomes the one at ``position``; the value will come from a row of ``launch``."""
        if position == len(self.tokens):
            self.tokens = np.concatenate([self.tokens, np.zeros_like(self.tokens)])
        self._forget_from(position)
        self.awaited[position] = launch, row
        self.length = position + 1

    def take(self, position: int, launch: Any, token: int) -> bool:
        """The value that ``launch`` promised; False where nobody waits for it any more."""
        if self.awaited.get(position, (None, 0))[0] is not launch:
            return False
        del self.awaited[position]
        self.tokens[position] = token
        return True

    def lose(self, position: int, launch: Any) -> None:
        """The value that ``launch`` promised will not come, nor any that was to follow it."""
        if self.awaited.get(position, (None, 0))[0] is launch:
            self._forget_from(position)
            self.length = position

    def page_array(self, pages: tuple[int, ...]) -> npt.NDArray[np.int32]:
        """``pages`` as an array; made anew only when they changed, which is once in a page's tokens."""
        if pages != self._pages:
            self._pages, self._page_array = pages, np.array(pages, dtype=np.int32)
        return self._page_array

    def _forget_from(self, position: int) -> None:
        if self.awaited:
            self.awaited = {at: source for at, source in self.awaited.items() if at < position}
