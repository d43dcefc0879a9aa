"""A page of plots in one file: nothing is fetched, and no text in it becomes markup.

Python says what is drawn (``data``), a script draws it with the tools of ``html/tools.js``. A browser without
scripts shows the same figures as plain text.
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_HERE = Path(__file__).with_name("html")


@dataclass(frozen=True)
class Sheet:
    """script: a file that draws ``data`` (it sees them as ``sheet.data``). plain: what it would say as text.
    made: by what, and what a reader must know of all figures."""

    title: str
    subtitle: str
    data: Mapping[str, Any]
    script: Path
    plain: str
    made: str

    def text(self) -> str:
        """The whole file."""
        created = datetime.now(UTC).isoformat(timespec="minutes")
        parts = {
            "title": html.escape(self.title),
            "subtitle": html.escape(self.subtitle),
            "footer": html.escape(f"Made {created} by {self.made}"),
            "plain": html.escape(self.plain),
            "style": _read(_HERE / "sheet.css"),
            "tools": _read(_HERE / "tools.js"),
            "script": _read(self.script),
            "data": _embedded(self.data),
        }
        # In one pass, so that a mark inside of a text stays a text.
        return re.sub(r"/\*(\w+)\*/", lambda mark: parts.get(mark[1], mark[0]), _read(_HERE / "sheet.html"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can break out of: HTML ends a script at ``</script`` and bends at ``<!--``."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII, so no line separators either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
