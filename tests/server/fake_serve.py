"""A server process before a scripted engine.

``python fake_serve.py PORT TOKEN_DELAY_S SHUTDOWN_TIMEOUT_S [LOAD_S]``

A negative LOAD_S is an engine that cannot start.

Everything but the engine and the checkpoint is what ``fullbore serve`` runs.
"""

import asyncio
import logging
import sys

from fake_engine import FakeEngine
from live_server import fake_engine, tokenizer

from fullbore.errors import FullboreError
from fullbore.server.auth import Keys
from fullbore.server.service import Service, Settings
from fullbore.server.serving import OnProgress, bind, serve
from fullbore.server.terminal import Terminal


def main(port: int, delay_s: float, shutdown_timeout_s: float, load_s: float = 0.0) -> int:
    logging.basicConfig(level=logging.INFO)
    settings = Settings(served=("demo",))
    with bind("127.0.0.1", port) as listener:
        service = Service(settings, tokenizer())

        async def start(on_progress: OnProgress) -> FakeEngine:
            on_progress(1, 10)
            await asyncio.sleep(max(load_s, 0.0))
            if load_s < 0:
                raise FullboreError("model.safetensors is truncated")
            engine = fake_engine()
            engine.delay_s = delay_s
            return engine

        terminal = Terminal(settings, listener.getsockname(), keyed=False)
        with terminal:
            return serve(service, Keys([]), listener, start, terminal.console(), shutdown_timeout_s)


if __name__ == "__main__":
    try:
        sys.exit(main(int(sys.argv[1]), *map(float, sys.argv[2:])))
    except FullboreError as error:
        print(f"fullbore: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
