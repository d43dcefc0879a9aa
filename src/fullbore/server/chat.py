"""Chat completions: a conversation -> jobs for the engine, and their pieces -> OpenAI's chat objects."""

from dataclasses import dataclass, field

from fullbore.server.answers import Usage
from fullbore.server.choice import Piece
from fullbore.server.logprobs import chat_logprobs
from fullbore.server.options import Options
from fullbore.server.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Label:
    """What every object of one HTTP answer repeats."""

    id: str
    created: int  # unix seconds
    model: str
    fingerprint: str

    def head(self, kind: str) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage_object(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


@dataclass(slots=True)
class ChatFormat:
    """Pieces as ``chat.completion.chunk`` objects, or all of them as one ``chat.completion``."""

    label: Label
    options: Options
    tokenizer: Tokenizer
    prompt: list[int]
    _begun: set[int] = field(default_factory=set)

    def chunks(self, piece: Piece) -> list[dict[str, object]]:
        chunks = []
        if piece.index not in self._begun:
            first = not self._begun
            self._begun.add(piece.index)
            chunks.append(self._chunk(piece.index, {"role": "assistant", "content": ""}))
            if first and self.options.return_token_ids:
                chunks[0]["prompt_token_ids"] = self.prompt
        told = self.options.sampling.logprobs >= 0 or self.options.return_token_ids
        # A token whose text is still held back has its chunk too, so that chunks mark the pace of tokens.
        if piece.text or piece.reasoning or (piece.tokens and (told or not piece.finish)):
            delta = {**_thought(piece.reasoning), **({"content": piece.text} if piece.text else {})}
            chunks.append(self._chunk(piece.index, delta, piece))
        if piece.finish:
            last = self._chunk(piece.index, {})
            choice = {
                **self._choice(piece.index, {}),
                "finish_reason": piece.finish,
                "stop_reason": piece.stop_reason,
            }
            chunks.append({**last, "choices": [choice]})
        return chunks

    def usage_chunk(self, usage: Usage) -> dict[str, object]:
        return {**self._head(), "choices": [], "usage": usage_object(usage)}

    def whole(self, pieces: list[Piece], usage: Usage) -> dict[str, object]:
        """``pieces`` has one for each choice, in order."""
        choices = []
        for piece in pieces:
            message = {
                "role": "assistant",
                "content": piece.text,
                "refusal": None,
                **_thought(piece.reasoning),
            }
            choices.append(
                {
                    "index": piece.index,
                    "message": message,
                    "finish_reason": piece.finish,
                    "stop_reason": piece.stop_reason,
                    **self._details(piece),
                }
            )
        whole = {**self.label.head("chat.completion"), "choices": choices, "usage": usage_object(usage)}
        if self.options.return_token_ids:
            whole["prompt_token_ids"] = self.prompt
        return whole

    def _head(self) -> dict[str, object]:
        return self.label.head("chat.completion.chunk")

    def _chunk(self, index: int, delta: dict[str, str], piece: Piece | None = None) -> dict[str, object]:
        choice = self._choice(index, delta)
        if piece is not None:
            choice |= self._details(piece)
        chunk = {**self._head(), "choices": [choice]}
        if self.options.include_usage:
            chunk["usage"] = None
        return chunk

    def _choice(self, index: int, delta: dict[str, str]) -> dict[str, object]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _details(self, piece: Piece) -> dict[str, object]:
        alternatives = self.options.sampling.logprobs
        details: dict[str, object] = {"logprobs": None}
        if alternatives >= 0:
            details["logprobs"] = chat_logprobs(self.tokenizer, piece.tokens, alternatives)
        if self.options.return_token_ids:
            details["token_ids"] = [news.token for news in piece.tokens]
        return details


def _thought(reasoning: str) -> dict[str, str]:
    """Under both names that clients look for: DeepSeek's API and most clients; newer vLLM."""
    return {"reasoning_content": reasoning, "reasoning": reasoning} if reasoning else {}
