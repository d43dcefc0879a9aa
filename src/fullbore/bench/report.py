"""What a benchmark found, and its file: JSON with a versioned schema."""

import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fullbore import __version__
from fullbore.bench.client import Target
from fullbore.bench.load import Load
from fullbore.errors import UsageError
from fullbore.scenario.metrics import Figures, Record, figures
from fullbore.scenario.scenario import Scenario

SCHEMA = "fullbore.bench/1"  # the number changes when a field changes its meaning or goes away


@dataclass(frozen=True)
class Result:
    """One scenario at one concurrency."""

    scenario: Scenario
    concurrency: int
    target: Target
    load: Load
    figures: Figures

    @classmethod
    def of(cls, scenario: Scenario, concurrency: int, target: Target, load: Load) -> "Result":
        return cls(scenario, concurrency, target, load, figures(load.records, concurrency, scenario.limits))


def check_writable(path: str) -> None:
    """Raise UsageError before the measuring rather than after it."""
    folder = Path(path).absolute().parent
    if Path(path).is_dir():
        raise UsageError(f"--json {path} is a folder; name a file")
    if not folder.is_dir():
        raise UsageError(f"--json {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--json {path}: the folder {folder} cannot be written to")


def write_json(path: str, results: Sequence[Result]) -> None:
    """Replace ``path`` as a whole: a reader sees the old report or the new one, never half of one."""
    target = Path(path).absolute()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(as_json(results), file, indent=1)
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """The report: units are in the names, times of requests count from the first send."""
    return {
        "schema": SCHEMA,
        "fullbore": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "client": {
            "machine": platform.machine(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "results": [_result(result) for result in results],
    }


def _result(result: Result) -> dict[str, Any]:
    begin_s = min((record.sent_s for record in result.load.records), default=0.0)
    return {
        "scenario": {**asdict(result.scenario), "scale": str(result.scenario.scale)},
        "concurrency": result.concurrency,
        "server": asdict(result.target),
        "prompts": result.target.material.name,
        "ended_early": result.load.ended_early,
        "figures": asdict(result.figures),
        "client_lag_ms": asdict(result.load.lag_ms) if result.load.lag_ms else None,
        "requests": [_request(record, begin_s) for record in result.load.records],
    }


def _request(record: Record, begin_s: float) -> dict[str, Any]:
    return {
        "number": record.number,
        "outcome": record.outcome,
        "error": record.error,
        "sent_s": round(record.sent_s - begin_s, 6),
        "ended_s": round(record.ended_s - begin_s, 6),
        "asked_input_tokens": record.asked_input,
        "asked_output_tokens": record.asked_output,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "chunks": len(record.chunks_s),
        "ttft_ms": record.ttft_s * 1e3 if record.ok else None,
        "tpot_ms": record.tpot_s * 1e3 if record.ok and record.tpot_s is not None else None,
    }
