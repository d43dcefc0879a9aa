"""``fullbore bench``: measure any OpenAI-compatible server under a scenario."""

import argparse

from fullbore.bench import arguments, running
from fullbore.bench.measuring import measure
from fullbore.bench.report import Result, check_writable, write_json
from fullbore.bench.table import console, report

INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.configure(parser)
    parser.add_argument("--json", default="", metavar="FILE", help="write the report there")


def run(args: argparse.Namespace) -> int:
    bench = arguments.bench_of(args)
    if args.json:
        check_writable(args.json)
    results: list[Result] = []

    def keep(result: Result) -> None:
        results.append(result)
        if args.json:
            write_json(args.json, results)

    try:
        finished = running.run(measure(bench, keep, console(stderr=True)))
    finally:
        if results:
            console().print(report(results))
    if not finished:
        return INTERRUPTED
    return 0 if all(result.figures.requests_ok and not result.load.failed for result in results) else 1
