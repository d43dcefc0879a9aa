"""Log probabilities in OpenAI's two shapes: chat's ``content`` entries and completions' parallel lists."""

from collections.abc import Iterable, Sequence

from fullbore.server.choice import TokenNews
from fullbore.server.tokenizer import Tokenizer

IMPOSSIBLE = -9999.0  # JSON has no -inf; what OpenAI's API documents for a token outside the most likely ones


def chat_logprobs(tokenizer: Tokenizer, news: Iterable[TokenNews], alternatives: int) -> dict[str, object]:
    """``{"content": [{token, logprob, bytes, top_logprobs}], "refusal": null}``, one entry a token."""
    content = [
        {
            **_entry(tokenizer, each.token, each.logprob),
            "top_logprobs": [
                _entry(tokenizer, other.token, other.logprob) for other in each.top[:alternatives]
            ],
        }
        for each in news
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, news: Sequence[TokenNews], alternatives: int, offset: int
) -> dict[str, object]:
    """``{tokens, token_logprobs, top_logprobs, text_offset}``; ``offset``: length of an echoed prompt."""
    tops: list[dict[str, float]] | None = None
    if alternatives:
        tops = []
        for each in news:
            best = {
                _name(tokenizer, other.token): _finite(other.logprob) for other in each.top[:alternatives]
            }
            best.setdefault(
                _name(tokenizer, each.token), _finite(each.logprob)
            )  # the chosen one is always told
            tops.append(best)
    return {
        "tokens": [_name(tokenizer, each.token) for each in news],
        "token_logprobs": [_finite(each.logprob) for each in news],
        "top_logprobs": tops,
        "text_offset": [offset + each.offset for each in news],
    }


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, object]:
    data = tokenizer.token_bytes(token)
    text = data.decode("utf-8", errors="replace")
    return {"token": text, "logprob": _finite(logprob), "bytes": list(data)}


def _name(tokenizer: Tokenizer, token: int) -> str:
    """A token as a key: its text, or ``bytes:\\xe4\\xb8`` when it is a part of a character."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float | None) -> float:
    return IMPOSSIBLE if logprob is None or logprob < IMPOSSIBLE else logprob
