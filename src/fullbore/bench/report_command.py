"""``fullbore bench report``: results that are in files, ours and other tools', as a table and as a page."""

import argparse
from itertools import chain

from fullbore.bench.read import read_results
from fullbore.results.files import check_writable
from fullbore.results.saving import save
from fullbore.results.table import console, report


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="of fullbore bench --json, sglang.bench_serving, vllm bench serve or guidellm",
    )
    add("--html", default="", metavar="FILE", help="write one page with plots there")


def run(args: argparse.Namespace) -> int:
    if args.html:
        check_writable(args.html, "--html")
    results = tuple(chain.from_iterable(map(read_results, args.files)))
    save(results, "", args.html, console(stderr=True))
    console().print(report(results))
    return 0
