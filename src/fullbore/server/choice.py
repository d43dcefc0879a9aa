"""One sequence: the engine's tokens in, text out, until it ends."""

from dataclasses import dataclass, field

from fullbore.engine.messages import Emitted, TokenLogprob
from fullbore.server.detokenizer import Detokenizer
from fullbore.server.options import Options
from fullbore.server.reasoning import ReasoningSplitter
from fullbore.server.stops import StopStrings
from fullbore.server.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenNews:
    """A generated token; ``offset`` is where its text begins, in characters from the start of the answer."""

    token: int
    offset: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one choice gained. A whole answer is the pieces of a choice, joined."""

    index: int
    text: str = ""
    reasoning: str = ""
    tokens: tuple[TokenNews, ...] = ()
    finish: str = ""  # stop or length at the end
    stop_reason: str | int | None = None  # the stop string or stop token id that ended it


def join(pieces: list[Piece]) -> Piece:
    """Pieces of one choice, in order, as one."""
    last = pieces[-1]
    return Piece(
        index=last.index,
        text="".join(piece.text for piece in pieces),
        reasoning="".join(piece.reasoning for piece in pieces),
        tokens=tuple(news for piece in pieces for news in piece.tokens),
        finish=last.finish,
        stop_reason=last.stop_reason,
    )


@dataclass(slots=True)
class Choice:
    """Detokenises, looks for stop strings, and splits thought from answer.

    ``inside_reasoning``: None, no split; else whether the prompt already opened the thought.
    """

    index: int
    tokenizer: Tokenizer
    options: Options
    inside_reasoning: bool | None = None
    tokens: int = 0  # generated so far, the end token included
    reasoning_tokens: int = 0
    cached: int = 0  # prompt tokens that the engine did not have to compute
    _chars: int = 0
    _detokenizer: Detokenizer = field(init=False)
    _stops: StopStrings = field(init=False)
    _splitter: ReasoningSplitter | None = field(init=False)

    def __post_init__(self) -> None:
        self._detokenizer = Detokenizer(self.tokenizer)
        self._stops = StopStrings(list(self.options.stop), self.options.include_stop)
        inside = self.inside_reasoning
        self._splitter = None if inside is None else ReasoningSplitter(inside)

    def push(self, event: Emitted) -> Piece:
        """The news of one engine event that carries no error."""
        finish, stop_reason = event.finish, None
        news: tuple[TokenNews, ...] = ()
        text = ""
        self.cached = max(self.cached, event.cached)
        if event.token >= 0:
            self.tokens += 1
            news = (TokenNews(event.token, self._chars, event.logprob, tuple(event.top)),)
            if finish == "stop":
                stop_reason = event.token if event.token in self.options.sampling.stop_token_ids else None
            if finish != "stop" or (stop_reason is not None and self.options.include_stop):
                text = self._detokenizer.push(event.token)
        if finish:
            text += self._detokenizer.flush()
        self._chars += len(text)

        visible, stopped = text, False
        if self.options.stop and self.tokens >= self.options.sampling.min_tokens:
            visible, stopped = self._stops.push(text)
        if stopped:
            return self._piece(visible, news, "stop", self._stops.found)
        if finish:
            visible += self._stops.flush()
        return self._piece(visible, news, finish, stop_reason)

    def _piece(
        self, text: str, news: tuple[TokenNews, ...], finish: str, stop_reason: str | int | None
    ) -> Piece:
        if self._splitter is None:
            return Piece(self.index, text, "", news, finish, stop_reason)
        inside = self._splitter.inside
        reasoning, content = self._splitter.push(text)
        if finish:
            more_reasoning, more_content = self._splitter.flush()
            reasoning, content = reasoning + more_reasoning, content + more_content
        if inside:
            self.reasoning_tokens += len(news)
        return Piece(self.index, content, reasoning, news, finish, stop_reason)
