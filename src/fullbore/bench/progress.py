"""The bar that shows a load under way."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from fullbore.bench.load import Live

REFRESH_S = 0.5


@asynccontextmanager
async def progress(
    screen: Console,
    what: str,
    requests: float,
    output_tokens: float,
    live: Live,
    seconds: float,
    transient: bool,
) -> AsyncIterator[None]:
    """A bar of output tokens, drawn by this event loop: a drawing thread would delay the clock of chunks.

    ``requests``: how many are expected, of ``output_tokens`` each on average; none is sent after ``seconds``
    (0: no end).
    """
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=screen,
        auto_refresh=False,
        transient=transient,
    )
    bar = bars.add_task(what, total=requests * output_tokens, state="")

    def draw() -> None:
        elapsed_s = max(1e-9, time.perf_counter() - live.started_s)
        known = live.done + live.in_flight if seconds and elapsed_s > seconds else round(requests)
        good = live.done - live.failed
        ttft = f"  TTFT {live.ttft_sum_s / good * 1e3:.0f} ms" if good else ""
        failed = f"  {live.failed} failed" if live.failed else ""
        load = f"{live.done}/{known} done  {live.in_flight} in flight  {live.tokens / elapsed_s:.0f} tok/s"
        bars.update(bar, completed=live.tokens, total=known * output_tokens, state=load + ttft + failed)
        bars.refresh()

    async def redraw() -> None:
        while True:
            draw()
            await asyncio.sleep(REFRESH_S)

    with bars:
        drawing = asyncio.create_task(redraw())
        try:
            yield
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
            draw()
