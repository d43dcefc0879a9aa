"""``python -m benchmarks.client``: what the load generator itself adds to the times that it measures.

A server of cheap chunks (``benchmarks/chunks.py``) says when it sent each one; the client's lag is the time
from there to its own clock's reading, both of CLOCK_MONOTONIC. In lockstep all streams get their chunk at
once, as from an engine's step; otherwise they are spread over the gap between two.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fullbore.bench.client import Client, Target
from fullbore.bench.running import allow_connections, run
from fullbore.scenario.metrics import Record, Spread
from fullbore.scenario.prompt import Request, Segment

SETTLING = 5  # first chunks of a stream that are left out: they come while others still connect


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client", description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rate", type=float, default=20.0, help="chunks a second of each (default 20)")
    parser.add_argument("--chunks", type=int, default=80, help="of each stream (default 80)")
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="pin the two")
    args = parser.parse_args(arguments)
    allow_connections(args.streams)
    for phases in ("spread", "lockstep"):
        with _server(args.cores[0] if args.cores else None) as url:
            if args.cores:
                os.sched_setaffinity(0, {args.cores[1]})
            before_bytes = _resident()
            began_s, cpu_s = time.perf_counter(), time.process_time()
            records = run(_stream(url, args.streams, args.rate, args.chunks, phases == "spread"))
            wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
            grown = _resident() - before_bytes
            with urllib.request.urlopen(f"{url}/sent") as answer:
                sent = json.load(answer)
        bad = [record for record in records if not record.ok]
        if bad:
            print(f"{len(bad)} of {len(records)} streams failed: {bad[0].outcome}: {bad[0].error}")
            return 1
        lag = Spread.of(_lags_ms(records, sent))
        chunks = sum(len(record.chunks_s) for record in records)
        if lag is None:
            print(f"no stream brought more than {SETTLING} chunks")
            return 1
        print(
            f"{args.streams} streams, {phases}: {chunks / wall_s:.0f} chunks/s; lag ms p50 {lag.p50:.2f}, "
            f"p99 {lag.p99:.2f}, most {lag.most:.2f}; {cpu_s / wall_s:.1%} of a core, "
            f"{cpu_s / chunks * 1e6:.1f} us and {grown / chunks:.0f} bytes a chunk"
        )
    return 0


async def _stream(url: str, streams: int, rate_s: float, chunks: int, spread: bool) -> Sequence[Record]:
    async with Client(url) as first:
        target = await first.discover()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_one(target, number, rate_s, chunks, number / streams if spread else 0.0))
            for number in range(streams)
        ]
    return [task.result() for task in tasks]


async def _one(target: Target, number: int, rate_s: float, chunks: int, phase: float) -> Record:
    body = {"rate_s": rate_s, "phase": phase, "prompt": str(number)}
    client = Client(target.url, extra_body=body)
    return await client.complete(target, Request(number, (Segment("", 1),), chunks))


def _lags_ms(records: Sequence[Record], sent: Mapping[str, Sequence[float]]) -> Iterator[float]:
    for record in records:
        both = zip(record.chunks_s, sent[str(record.number)], strict=True)
        yield from ((came_s - sent_s) * 1e3 for came_s, sent_s in list(both)[SETTLING:])


def _resident() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _server(core: int | None) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.chunks", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip() if process.stdout else ''}"
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
