"""From loading to gone: who may come in, what is still open, and how it ends."""

import asyncio
import time
from typing import Literal

from fullbore.server.answers import Answers
from fullbore.server.errors import RETRY_LATER_S, ApiError, unavailable

State = Literal["loading", "ready", "draining"]


class Lifecycle:
    """loading -> ready -> draining; an answer that runs is finished while draining, a new one is refused."""

    def __init__(self) -> None:
        self.state: State = "loading"
        self.started = time.monotonic()
        self._open: set[Answers] = set()
        self._changed = asyncio.Event()

    @property
    def open(self) -> int:
        """HTTP requests that are being answered."""
        return len(self._open)

    def refusal(self) -> ApiError | None:
        """Why no new request can be taken; None when it can."""
        if self.state == "loading":
            return unavailable("the model is still loading; see GET /ready", "loading", RETRY_LATER_S)
        if self.state == "draining":
            return unavailable("this server is shutting down; use another", "shutting_down", RETRY_LATER_S)
        return None

    def became_ready(self) -> None:
        if self.state == "loading":
            self.state = "ready"

    def drain(self) -> None:
        self.state = "draining"
        self._changed.set()

    def entered(self, answers: Answers) -> None:
        """``answers`` runs from now on; raises ApiError 503 when a drain began since it was admitted."""
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        self._open.add(answers)

    def left(self, answers: Answers) -> None:
        self._open.discard(answers)
        self._changed.set()

    def abort(self) -> None:
        """Every open answer ends with an error, now."""
        for answers in list(self._open):
            answers.fail(unavailable("the answer was aborted: this server was told to stop", "aborted"))

    async def drained(self) -> None:
        """Returns once the drain has begun and nothing is open any more."""
        while self.state != "draining" or self._open:
            self._changed.clear()
            await self._changed.wait()
