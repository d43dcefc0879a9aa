"""``fullbore bench compare``: runs side by side, with ratios and how sure they are."""

import argparse
from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fullbore.bench.compare import Compared, Comparison, Run, compare
from fullbore.bench.read import read_results
from fullbore.errors import UsageError
from fullbore.results.files import check_writable
from fullbore.results.result import TITLES
from fullbore.results.saving import save
from fullbore.results.table import columns, console, number


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="results; the first is what the others are compared with")
    add("--html", default="", metavar="FILE", help="write one page with the plots of all there")


def run(args: argparse.Namespace) -> int:
    if len(args.files) < 2:
        raise UsageError(f"{args.files[0]} alone has nothing to be compared with; name two files or more")
    if args.html:
        check_writable(args.html, "--html")
    runs = [Run(name, read_results(file)) for name, file in zip(_names(args.files), args.files, strict=True)]
    found = compare(runs)
    console().print(shown(found))
    save([result for run in runs for result in run.results], "", args.html, console(stderr=True))
    return 0 if found.rows else 1


def shown(found: Comparison) -> Group:
    """A table for each scenario and load."""
    parts: list[Text | Table] = []
    for row in found.rows:
        parts.append(Text(f"\n{row.scenario}, {row.point}\n", style="bold"))
        parts.append(columns(_lines(found, row.of)))
    if not found.rows:
        parts.append(Text("The files have no scenario and load in common.", style="yellow"))
    doubt = ", and models by their own account," if found.simulated else ""
    parts.append(Text(f"\n~ : within what chance{doubt} may do (95 %)\n", style="dim"))
    parts += [Text(f"note: {note}", style="yellow") for note in (*found.alone, *found.notes)]
    return Group(*parts)


def _lines(found: Comparison, of: tuple[dict[str, Compared] | None, ...]) -> Iterator[dict[str, str]]:
    for name, figures in zip(found.names, of, strict=True):
        if figures is not None:
            yield {"run": name} | {
                key: text
                for place, (figure, title) in enumerate(TITLES.items())
                for key, text in (
                    (title, number(figures[figure].value)),
                    ("x" + " " * place, _ratio(figures[figure])),
                )
            }


def _ratio(each: Compared) -> str:
    """``1.24 (1.19-1.30)``, ``~1.01 (0.98-1.04)``, or without an interval where none is known."""
    if each.ratio is None:
        return "-"
    if each.interval is None:
        return f"{each.ratio:.2f} (?)"
    mark = "" if each.differs else "~"
    return f"{mark}{each.ratio:.2f} ({each.interval.low:.2f}-{each.interval.high:.2f})"


def _names(files: list[str]) -> list[str]:
    """The files' own names; with their folders where two are called alike."""
    short = [file.rsplit("/", 1)[-1].removesuffix(".json") for file in files]
    return short if len(set(short)) == len(short) else files
