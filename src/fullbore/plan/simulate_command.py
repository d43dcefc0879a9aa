"""``fullbore plan simulate``: a scenario on a server that exists as a model, reported as a bench reports."""

import argparse

from fullbore.plan.arguments import add_server, add_way, model_name, way_of
from fullbore.plan.virtual import VirtualServer
from fullbore.results.files import check_writable
from fullbore.results.result import Result
from fullbore.results.result_file import as_text
from fullbore.results.saving import save
from fullbore.results.table import console, report
from fullbore.scenario.arguments import add_load, add_scenario, arrivals_of, scenario_of

_SCHEDULERS = ("engine", "fullbore")


def configure(parser: argparse.ArgumentParser) -> None:
    add_server(parser.add_argument)
    add_way(parser.add_argument)
    parser.add_argument(
        "--scheduler",
        choices=_SCHEDULERS,
        default=_SCHEDULERS[0],
        help="whose rules: the engine's in counts (default), or those of fullbore serve, whose classes run",
    )
    add_scenario(parser.add_argument_group("what is asked").add_argument, seed=0)
    add_load(parser.add_argument_group("how it is asked").add_argument)
    add = parser.add_argument_group("the report").add_argument
    add("--save", default="", metavar="FILE", help="write the results there, as fullbore bench --json does")
    add("--html", default="", metavar="FILE", help="write one page with plots there")
    add("--json", action="store_true", help="print what --save writes instead of a table")


def run(args: argparse.Namespace) -> int:
    for flag, path in (("--save", args.save), ("--html", args.html)):
        if path:
            check_writable(path, flag)
    way, scenario = way_of(args), scenario_of(args)
    served = args.scheduler == "fullbore" or way.profile.engine == "fullbore"
    server = VirtualServer(way, model_name(args), scenario, served, args.seconds)
    results: list[Result] = []
    for number, arrival in enumerate(arrivals_of(args) or (scenario.arrival,)):
        results.append(server.run(arrival, number, args.requests))
        save(results, args.save, args.html, console(stderr=True))
    if args.json:
        print(as_text(results), end="")
    else:
        console().print(report(results))
    return 0 if all(result.figures.requests_ok for result in results) else 1
