"""Text completions: pieces -> OpenAI's ``text_completion`` objects."""

from dataclasses import dataclass, field

from fullbore.server.answers import Usage
from fullbore.server.chat import Label, usage_object
from fullbore.server.choice import Piece
from fullbore.server.logprobs import completion_logprobs
from fullbore.server.options import Options
from fullbore.server.tokenizer import Tokenizer


@dataclass(slots=True)
class CompletionFormat:
    """Pieces as chunks, or all of them as one object; both are of the kind ``text_completion``.

    ``echoes``: for each choice the text of its prompt, put before its answer; empty without ``echo``.
    ``prompts``: for each choice its prompt's token ids.
    """

    label: Label
    options: Options
    tokenizer: Tokenizer
    echoes: list[str]
    prompts: list[list[int]]
    _begun: set[int] = field(default_factory=set)

    def chunks(self, piece: Piece) -> list[dict[str, object]]:
        first = piece.index not in self._begun
        self._begun.add(piece.index)
        chunk = {**self._head(), "choices": [self._choice(piece, first)]}
        if self.options.include_usage:
            chunk["usage"] = None
        return [chunk]

    def usage_chunk(self, usage: Usage) -> dict[str, object]:
        return {**self._head(), "choices": [], "usage": usage_object(usage)}

    def whole(self, pieces: list[Piece], usage: Usage) -> dict[str, object]:
        """``pieces`` has one for each choice, in order."""
        choices = [self._choice(piece, True) for piece in pieces]
        return {**self._head(), "choices": choices, "usage": usage_object(usage)}

    def _head(self) -> dict[str, object]:
        return self.label.head("text_completion")

    def _choice(self, piece: Piece, first: bool) -> dict[str, object]:
        echo = self.echoes[piece.index]
        choice: dict[str, object] = {
            "index": piece.index,
            "text": (echo if first else "") + piece.text,
            "logprobs": None,
            "finish_reason": piece.finish or None,
            "stop_reason": piece.stop_reason,
        }
        alternatives = self.options.sampling.logprobs
        if alternatives >= 0:
            choice["logprobs"] = completion_logprobs(self.tokenizer, piece.tokens, alternatives, len(echo))
        if self.options.return_token_ids:
            choice["token_ids"] = [news.token for news in piece.tokens]
            if first:
                choice["prompt_token_ids"] = self.prompts[piece.index]
        return choice
