"""``python -m benchmarks.client``: what the load generator itself adds to the times that it measures.

A server of cheap chunks (``benchmarks/chunks.py``) says when it sent each one; the client's lag is the time
from there to its own clock's reading, both of CLOCK_MONOTONIC. In lockstep all streams get their chunk at
once, as from an engine's step; otherwise they are spread over the gap between two.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fullbore.bench.client import Client
from fullbore.bench.load import Load
from fullbore.bench.running import allow_connections, run
from fullbore.bench.workers import drive_across
from fullbore.scenario.metrics import Record, Spread
from fullbore.scenario.prompt import RandomWords, Request, Segment, Session

SETTLING = 5  # first chunks of a stream that are left out: they come while others still connect
PROMPT_TOKENS = 8


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client", description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rate", type=float, default=20.0, help="chunks a second of each (default 20)")
    parser.add_argument("--chunks", type=int, default=80, help="of each stream (default 80)")
    parser.add_argument("--processes", type=int, default=1, help="of the client (default 1)")
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="pin the two")
    args = parser.parse_args(arguments)
    allow_connections(args.streams)
    for lockstep in (False, True):
        with _server(args.cores[0] if args.cores else None) as url:
            if args.cores:
                os.sched_setaffinity(0, {args.cores[1]})
            before_bytes, before_s, began_s = _resident(), _cpu_s(), time.perf_counter()
            load = run(_drive(url, args, lockstep))
            wall_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - before_s
            grown = _resident() - before_bytes
            with urllib.request.urlopen(f"{url}/sent") as answer:
                sent = json.load(answer)
        bad = [record for record in load.records if not record.ok]
        if bad or load.ended_early:
            first = f"{bad[0].outcome}: {bad[0].error}" if bad else load.ended_early
            print(f"{len(bad)} of {len(load.records)} streams failed: {first}")
            return 1
        lag = Spread.of(_lags_ms(load.records, sent))
        chunks = sum(len(record.chunks_s) for record in load.records)
        if lag is None or load.lag_ms is None:
            print(f"no stream brought more than {SETTLING} chunks")
            return 1
        how = f"{args.streams} streams, {'lockstep' if lockstep else 'spread'}, {args.processes} process(es)"
        print(
            f"{how}: {chunks / wall_s:.0f} chunks/s; lag ms p50 {lag.p50:.2f}, p99 {lag.p99:.2f}, "
            f"most {lag.most:.2f} (by its timers {load.lag_ms.p50:.2f}, {load.lag_ms.p99:.2f}); "
            f"{cpu_s / wall_s:.1%} of a core, {cpu_s / chunks * 1e6:.1f} us and "
            f"{grown / chunks:.0f} bytes a chunk"
        )
    return 0


async def _drive(url: str, args: argparse.Namespace, lockstep: bool) -> Load:
    async with Client(url, extra_body={"rate_s": args.rate, "lockstep": lockstep}) as client:
        target = await client.discover()
        requests = [Request(number, _prompt(number), args.chunks) for number in range(args.streams)]
        sessions = [Session(request.number, (request,)) for request in requests]
        return await drive_across(args.processes, client, target, sessions, args.streams)


def _prompt(number: int) -> tuple[Segment, ...]:
    return (Segment(str(number), PROMPT_TOKENS),)


def _lags_ms(records: Sequence[Record], sent: Mapping[str, Sequence[float]]) -> Iterator[float]:
    for record in records:
        both = zip(record.chunks_s, sent[RandomWords().render(_prompt(record.number))], strict=True)
        yield from ((came_s - sent_s) * 1e3 for came_s, sent_s in list(both)[SETTLING:])


def _cpu_s() -> float:
    """Of this process and of those that it started and that ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _resident() -> int:
    """Bytes of memory that this process (not its workers) had at most."""
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
