"""Where results go: a file for programs, a page for people. Nothing that was measured is lost on the way."""

from collections.abc import Sequence

from rich.console import Console

from fullbore.results.page import write_page
from fullbore.results.result import Result
from fullbore.results.result_file import write_json


def save(results: Sequence[Result], json_path: str, html_path: str, screen: Console) -> None:
    """Write ``results`` to the paths that are given; what went elsewhere is said on ``screen``."""
    if json_path:
        written = write_json(json_path, results)
        if str(written) != json_path:
            screen.print(
                f"{json_path} cannot be written any more; the results are in {written}", style="yellow"
            )
    if html_path:
        write_page(html_path, results, f"{results[0].server.model or 'Benchmark'}, {_how(results)}")


def _how(results: Sequence[Result]) -> str:
    kinds = {"measured" if each.simulated is None else "simulated" for each in results}
    return " and ".join(sorted(kinds))
