"""The answers to one HTTP request while they are generated: one engine request for each choice.

Whatever ends the HTTP request, leaving the ``async with`` block ends its engine requests.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from fullbore.engine.messages import Emitted, Ready, Sampling, Stats
from fullbore.errors import CapacityError
from fullbore.server.choice import Choice, Piece
from fullbore.server.errors import RETRY_SOON_S, failed, unavailable
from fullbore.server.metrics import ServerMetrics

ENGINE_DIED = "engine died"


class SlowReader(Exception):
    """The client takes too little of its stream."""


class Engine(Protocol):
    """What the server needs of an engine; ``fullbore.engine.client.EngineClient`` is one."""

    @property
    def ready(self) -> Ready: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def alive(self) -> bool: ...
    @property
    def last_progress(self) -> float: ...

    def generate(
        self, prompt: list[int], max_tokens: int, sampling: Sampling, salt: str = ""
    ) -> AsyncGenerator[Emitted]: ...
    async def flush(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One choice's share of the work."""

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    choice: Choice


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole HTTP request. A prompt counts once however many answers it gets."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int


class Answers:
    """Runs jobs side by side; ``batches()`` yields their pieces as they come."""

    def __init__(
        self,
        engine: Engine,
        jobs: Sequence[Job],
        answers_per_prompt: int,
        salt: str,
        metrics: ServerMetrics,
        unsent_events: int,
    ) -> None:
        """``unsent_events``: so many may wait for the reader; beyond, the engine is not kept busy for it."""
        self._engine = engine
        self._jobs = jobs
        self._per_prompt = answers_per_prompt
        self._salt = salt
        self._metrics = metrics
        self._unsent_events = unsent_events
        self._waiting: list[Piece | Exception] = []
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run(job)) for job in self._jobs]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fail(self, error: Exception) -> None:
        """End all of it with ``error``; its reader is told in place of what it has not yet read."""
        self._waiting.insert(0, error)
        self._news.set()

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """Everything that has come since the last batch, until every choice has finished.

        Raises the error of the first job that fails, before the pieces that came with it.
        """
        unfinished = len(self._jobs)
        while unfinished:
            await self._news.wait()
            self._news.clear()
            waiting, self._waiting = self._waiting, []
            for item in waiting:
                if isinstance(item, Exception):
                    raise item
            batch = [item for item in waiting if isinstance(item, Piece)]
            unfinished -= sum(1 for piece in batch if piece.finish)
            if batch:
                yield batch

    def usage(self) -> Usage:
        choices = [job.choice for job in self._jobs]
        return Usage(
            prompt_tokens=sum(len(job.prompt) for job in self._jobs[:: self._per_prompt]),
            completion_tokens=sum(choice.tokens for choice in choices),
            cached_tokens=sum(choice.cached for choice in choices[:: self._per_prompt]),
            reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
        )

    async def _run(self, job: Job) -> None:
        timing = self._metrics.request_started(len(job.prompt))
        end = "abort"  # unless it comes to an end of its own
        try:
            stream = self._engine.generate(job.prompt, job.max_tokens, job.sampling, self._salt)
            async with aclosing(stream) as events:
                async for event in events:
                    error = _error(event)
                    if error is not None:
                        end = event.finish
                        self._tell(error)
                        return
                    piece = job.choice.push(event)
                    if event.token >= 0:
                        self._metrics.token(timing)
                    self._tell(piece)
                    if piece.finish:
                        end = piece.finish
                        return
                    if len(self._waiting) > self._unsent_events:
                        self.fail(SlowReader(f"the reader is more than {self._unsent_events} tokens behind"))
                        return
            end = "error"
            self._tell(failed("the engine ended this answer without a reason"))
        except CapacityError as error:  # the engine is down
            end = "error"
            self._tell(unavailable(f"{error}; try again", "engine_died"))
        except Exception as error:  # noqa: BLE001 - one request's failure is told to that request alone
            end = "error"
            self._tell(error)
        finally:
            if end == "refused":
                self._metrics.rejected("queue_full")
            else:
                self._metrics.finished(timing, end)

    def _tell(self, item: Piece | Exception) -> None:
        self._waiting.append(item)
        self._news.set()


def _error(event: Emitted) -> Exception | None:
    """What an event says instead of going on, if it does."""
    if event.finish == "refused":
        message = "the queue of this server is full (--max-queued-requests); try again"
        return unavailable(message, "queue_full", RETRY_SOON_S)
    if event.finish == "error" and event.error == ENGINE_DIED:
        return unavailable("the engine died and is being restarted; try again", "engine_died")
    if event.finish == "error":
        return failed(f"the engine could not go on with this request: {event.error or 'no reason given'}")
    if event.finish == "abort":
        return unavailable("the answer was aborted because the engine is shutting down", "aborted")
    return None
