"""Where tables are printed."""

import io

from rich.console import Console, RenderableType


def console(least: int, plain: int, stderr: bool = False) -> Console:
    """One that cuts no table off: ``least`` columns in a terminal, whose lines then break but lose no digit,
    and ``plain`` where the output is a file or a pipe."""
    found = Console(stderr=stderr, highlight=False)
    width = max(found.width, least) if found.is_terminal else plain
    return Console(stderr=stderr, highlight=False, width=width)


def as_text(shown: RenderableType, width: int = 110) -> str:
    """What would be printed, without colours."""
    console = Console(file=io.StringIO(), record=True, width=width, highlight=False)
    console.print(shown)
    return console.export_text()
