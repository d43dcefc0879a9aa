"""Reports of the first schema, as the second: what it did not hold is null."""

from collections.abc import Mapping
from typing import Any

from fullbore.errors import FullboreError

FIRST_SCHEMA = "fullbore.bench/1"


def second_of_first(report: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The same results with the fields of the second. FullboreError where one is missing."""
    try:
        return {"results": [_entry(result, report) for result in report["results"]]}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FullboreError(
            f"{source} says that it is {FIRST_SCHEMA}, but is not ({type(error).__name__}: {error}); "
            "was it changed, or cut off?"
        ) from error


def _entry(result: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    scenario, server, client = result["scenario"], result["server"], report["client"]
    figures = {key: value for key, value in result["figures"].items() if key != "steady_output_tok_s"}
    return {
        "scenario": {
            "name": scenario["name"],
            "summary": _summary(scenario),
            "limits": scenario["limits"],
            "settings": scenario,
        },
        "concurrency": result["concurrency"],
        "rate_s": None,
        "server": {
            "url": server["url"],
            "model": server["model"],
            "software": server["server"],
            "weights": server["weights"],
            "vocab_size": server["vocab_size"],
            "max_model_len": server["max_model_len"],
        },
        "client": {
            "system": client["system"],
            "cores": client["cores"] or 0,
            "python": client["python"],
            "fullbore": report["fullbore"],
        },
        "figures": {**figures, "steady": None},
        "certainty": {},
        "timeline": None,
        "itl": None,
        "requests": _columns(result["requests"]),
        "lag_ms": result["client_lag_ms"],
        "late_ms": None,
        "prompts": result["prompts"],
        "processes": 1,
        "ended_early": result["ended_early"],
        "failed": False,
        "tool": f"fullbore bench {report['fullbore']}",
        "remarks": [],
    }


def _summary(scenario: Mapping[str, Any]) -> str:
    """As ``Scenario.describe``: every length of that schema was fixed."""
    lengths = [each["tokens"] if isinstance(each, dict) else each for each in _lengths(scenario)]
    scale = "" if scenario["scale"] == "1" else f" at scale {scenario['scale']}"
    return f"{scenario['name']}{scale}: {lengths[0]} tokens in, {lengths[1]} out"


def _lengths(scenario: Mapping[str, Any]) -> tuple[Any, Any]:
    if "input" in scenario:
        return scenario["input"], scenario["output"]
    return scenario["input_tokens"], scenario["output_tokens"]


def _columns(requests: list[Mapping[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: [request[name] for request in requests]
        for name in ("number", "sent_s", "ended_s", "asked_input_tokens", "asked_output_tokens")
    }
    columns |= {
        name: [request[name] for request in requests] for name in ("input_tokens", "output_tokens", "chunks")
    }
    firsts = [
        None if request["ttft_ms"] is None else request["sent_s"] + request["ttft_ms"] / 1e3
        for request in requests
    ]
    lasts = [
        first if first is None or request["tpot_ms"] is None
        else first + request["tpot_ms"] / 1e3 * (request["output_tokens"] - 1)
        for first, request in zip(firsts, requests, strict=True)
    ]  # fmt: skip
    return columns | {
        "session": [request["number"] for request in requests],
        "turn": [0] * len(requests),
        "due_s": [None] * len(requests),
        "first_s": firsts,
        "last_s": lasts,
        "outcome": [request["outcome"] for request in requests],
        "errors": {
            str(place): request["error"] for place, request in enumerate(requests) if request["error"]
        },
    }
