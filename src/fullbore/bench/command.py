"""``fullbore bench``: measure any OpenAI-compatible server under a scenario."""

import argparse

from fullbore.bench import arguments, find_command, running
from fullbore.bench.measuring import measure
from fullbore.results.files import check_writable
from fullbore.results.result import Result
from fullbore.results.saving import save
from fullbore.results.table import console, report

INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.configure(parser)
    find_command.configure(parser)
    add = parser.add_argument_group("the report").add_argument
    add("--json", default="", metavar="FILE", help="write the results there")
    add("--html", default="", metavar="FILE", help="write one page with plots there")


def run(args: argparse.Namespace) -> int:
    search = find_command.plan_of(args)
    bench = arguments.bench_of(args)
    for flag, path in (("--json", args.json), ("--html", args.html)):
        if path:
            check_writable(path, flag)
    results: list[Result] = []
    screen = console(stderr=True)

    def keep(result: Result) -> None:
        results.append(result)
        save(results, args.json, args.html, screen)

    if search:
        found, finished = running.run(find_command.find(bench, *search, args.state, keep, screen))
        console().print(find_command.shown(found, bench.scenario.limits, search[1]))
        return (0 if found.limit else 1) if finished else INTERRUPTED
    try:
        finished = running.run(measure(bench, keep, screen))
    finally:
        if results:
            console().print(report(results))
    if not finished:
        return INTERRUPTED
    return 0 if all(result.figures.requests_ok and not result.failed for result in results) else 1
