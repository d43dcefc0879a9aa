"""Result files, whoever wrote them: ours of every schema, and those of other tools."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fullbore.bench import guidellm_file, serving_file
from fullbore.bench.first_schema import FIRST_SCHEMA, second_of_first
from fullbore.errors import FullboreError
from fullbore.results.result import Result
from fullbore.results.result_file import SCHEMA, entries

Reader = Callable[[Mapping[str, Any], str], tuple[Result, ...]]
# What tells a file of each tool, by a look at its first object.
OTHERS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Reader], ...] = (
    (guidellm_file.recognises, guidellm_file.read),
    (serving_file.recognises, serving_file.read),
)
KNOWN = (
    f"expected a file of fullbore bench --json ({SCHEMA} or {FIRST_SCHEMA}), of sglang.bench_serving "
    "--output-file, of vllm bench serve --save-result or of guidellm (JSON)"
)


def read_results(path: str) -> tuple[Result, ...]:
    """Every result of a file. FullboreError that says what is wrong with it."""
    results: list[Result] = []
    for report in _objects(path):
        schema = report.get("schema")
        if schema == SCHEMA:
            results += entries(report, path)
        elif schema == FIRST_SCHEMA:
            results += entries(second_of_first(report, path), path)
        elif isinstance(schema, str) and schema.startswith("fullbore."):
            raise FullboreError(
                f"{path} has the schema {schema!r}, which this fullbore does not know; {KNOWN}"
            )
        else:
            reader = next((read for recognises, read in OTHERS if recognises(report)), None)
            if reader is None:
                raise FullboreError(f"{path} is JSON, but no benchmark's results; {KNOWN}")
            try:
                results += reader(report, path)
            except (KeyError, TypeError, ValueError) as error:
                what = f"{type(error).__name__}: {error}"
                raise FullboreError(f"{path} lacks what such a file has ({what}); was it cut off?") from error
    if not results:
        raise FullboreError(f"{path} holds no results; {KNOWN}")
    return tuple(results)


def _objects(path: str) -> list[Mapping[str, Any]]:
    """One JSON object, or one a line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FullboreError(f"{path} cannot be read: {error.strerror}; name a file of results") from error
    except UnicodeDecodeError as error:
        raise FullboreError(f"{path} is no text; {KNOWN}") from error
    if not text.strip():
        raise FullboreError(f"{path} is empty; {KNOWN}")
    try:
        found = [json.loads(text)]
    except json.JSONDecodeError as whole:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (json.JSONDecodeError, RecursionError):
            at_end = whole.pos >= len(text.rstrip()) - 1 or whole.msg.startswith("Unterminated")
            why = "ends in the middle: it was cut off" if at_end else f"is not JSON: {whole}"
            raise FullboreError(f"{path} {why}; {KNOWN}") from whole
    except RecursionError as error:
        raise FullboreError(f"{path} is nested too deeply to be a report; {KNOWN}") from error
    if not all(isinstance(each, dict) for each in found):
        raise FullboreError(f"{path} is JSON, but no benchmark's results; {KNOWN}")
    return found
