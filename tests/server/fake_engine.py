"""An engine in this process, scripted: what the server sees of ``EngineClient``, without a model.

Tokens are deterministic: an answer is ``script(prompt, sampling)``, whose default says "hello" and its seed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from fullbore.engine.messages import Emitted, Ready, Sampling, Stats, TokenLogprob

Script = Callable[[list[int], Sampling], Sequence[int]]


@dataclass
class Submitted:
    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    salt: str


class FakeEngine:
    """``open``: requests neither finished nor left. ``queue``: how many may be open before refusals."""

    def __init__(self, script: Script, vocab_size: int, eos: int, max_model_len: int = 256) -> None:
        self.script = script
        self.eos = eos
        self.ready = Ready(
            vocab_size, max_model_len, 16, max_model_len, [eos], "0123456789abcdef", "fp8", 656, "int8"
        )
        self.stats = Stats(pages_total=max_model_len)
        self.alive = True
        self.last_progress = time.monotonic()
        self.delay_s = 0.0
        self.first_delay_s = 0.0
        self.queue = 10_000
        self.cached = 0
        self.fault: Callable[[list[int], int], str] = lambda prompt, count: (
            ""
        )  # "" or an error, for each token
        self.open = 0
        self.submitted: list[Submitted] = []
        self.flushed = 0
        self.closed = False
        self._died = asyncio.Event()

    async def generate(
        self, prompt: list[int], max_tokens: int, sampling: Sampling, salt: str = ""
    ) -> AsyncGenerator[Emitted, None]:
        number = len(self.submitted)
        self.submitted.append(Submitted(prompt, max_tokens, sampling, salt))
        if self.open >= self.queue:
            yield Emitted(number, -1, "refused")
            return
        self.open += 1
        try:
            async for event in self._events(number, prompt, max_tokens, sampling):
                yield event
        finally:
            self.open -= 1

    async def _events(
        self, number: int, prompt: list[int], max_tokens: int, sampling: Sampling
    ) -> AsyncGenerator[Emitted, None]:
        script = list(self.script(prompt, sampling))
        for count in range(max_tokens):
            if await self._dies_within(self.delay_s if count else self.first_delay_s):
                yield Emitted(number, -1, "error", error="engine died")
                return
            fault = self.fault(prompt, count)
            if fault:
                yield Emitted(number, -1, "error", error=fault)
                return
            token = script[count] if count < len(script) else self.eos
            ends = (token == self.eos and not sampling.ignore_eos) or token in sampling.stop_token_ids
            finish = "stop" if ends else "length" if count + 1 == max_tokens else ""
            self.last_progress = time.monotonic()
            yield self._emitted(number, token, finish, sampling, count)
            if finish:
                return

    def _emitted(self, number: int, token: int, finish: str, sampling: Sampling, count: int) -> Emitted:
        if sampling.logprobs < 0:
            return Emitted(number, token, finish, cached=0 if count else self.cached)
        top = [
            TokenLogprob((token + rank) % self.ready.vocab_size, -0.5 - rank)
            for rank in range(sampling.logprobs)
        ]
        return Emitted(number, token, finish, -0.5, top, 0 if count else self.cached)

    async def _dies_within(self, seconds: float) -> bool:
        if not seconds:
            await asyncio.sleep(0)
            return self._died.is_set()
        try:
            await asyncio.wait_for(self._died.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def die(self) -> None:
        """As when the process was killed: everybody is told, and nobody is taken until ``revive``."""
        self.alive = False
        self._died.set()

    def revive(self) -> None:
        self.alive = True
        self._died = asyncio.Event()

    async def flush(self) -> None:
        self.flushed += 1

    async def close(self) -> None:
        self.closed = True
