"""``fullbore bench``: measure any OpenAI-compatible server under a scenario."""

import argparse

from fullbore.bench import arguments, running
from fullbore.bench.measuring import measure
from fullbore.bench.report import Result
from fullbore.bench.result_file import check_writable
from fullbore.bench.saving import save
from fullbore.bench.table import console, report

INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.configure(parser)
    add = parser.add_argument_group("the report").add_argument
    add("--json", default="", metavar="FILE", help="write the results there")
    add("--html", default="", metavar="FILE", help="write one page with plots there")


def run(args: argparse.Namespace) -> int:
    bench = arguments.bench_of(args)
    for flag, path in (("--json", args.json), ("--html", args.html)):
        if path:
            check_writable(path, flag)
    results: list[Result] = []
    screen = console(stderr=True)

    def keep(result: Result) -> None:
        results.append(result)
        save(results, args.json, args.html, screen)

    try:
        finished = running.run(measure(bench, keep, screen))
    finally:
        if results:
            console().print(report(results))
    if not finished:
        return INTERRUPTED
    return 0 if all(result.figures.requests_ok and not result.failed for result in results) else 1
