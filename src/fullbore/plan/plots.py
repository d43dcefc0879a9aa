"""What the pages of a plan and of a point draw: ``html/plan.js`` finds it in them and adds no figure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fullbore.hardware.catalogue import Device
from fullbore.plan import page as plan_page
from fullbore.plan import point_page
from fullbore.plan.answer import Answer, Part, reached_json
from fullbore.plan.launch import Launch
from fullbore.plan.memory import Memory
from fullbore.plan.next_steps import NextStep
from fullbore.plan.point import Point, predict
from fullbore.plan.trial import MOST_IN_FLIGHT, Trial
from fullbore.screen import as_text
from fullbore.sheet.sheet import Sheet
from fullbore.steptime.version import model_version

SCRIPT = Path(__file__).with_name("html") / "plan.js"
_STEPS = 12  # of a curve, beside powers of two
_SMALL = 0.005  # of a device: smaller parts of the weights are drawn as one
_FIGURES = (  # of a device: field, what it is, its unit, and that in the field's own
    ("memory_bytes", "memory", "GB", 1e9),
    ("bandwidth_bytes_s", "memory bandwidth", "TB/s", 1e12),
    ("reached_bytes_s", "bandwidth that a copy reaches", "TB/s", 1e12),
    ("bf16_flop_s", "bf16, dense", "TFLOP/s", 1e12),
    ("fp8_flop_s", "fp8, dense", "TFLOP/s", 1e12),
    ("fp4_flop_s", "fp4, dense", "TFLOP/s", 1e12),
    ("link_bytes_s", "links to the others, one way", "GB/s", 1e9),
)


def plan_sheet(found: Answer, steps: Iterable[NextStep]) -> str:
    """The page of a plan: a whole file's text. Simulates a few more loads for its curves."""
    trial = found.trial
    server = trial.setting.server
    return Sheet(
        title=f"{server.name} with {trial.profile.title}",
        subtitle=f"{trial} — best of {found.found.tried} ways that fit"
        + (f". {server.note}" if server.note else ""),
        data={
            "parts": [_part(part, trial) for part in found.parts],
            "peak": reached_json(found.peak),
            "inside": found.inside,
            "losers": [
                {"way": str(each.way.trial), "limits": list(each.way.limits), "why": each.why}
                for each in found.losers
            ],
            **_shared(trial.setting.server.device, trial.held, found.launches, steps),
            "profile": {"engine": trial.profile.title, "rests_on": trial.profile.rests_on},
            "notes": list(found.notes),
        },
        script=SCRIPT,
        plain=as_text(plan_page.page(found), 140),
        made=_made(),
    ).text()


def point_sheet(point: Point, launches: Sequence[Launch], steps: Iterable[NextStep]) -> str:
    """The page of one operating point, with others above and below it."""
    setting, load, profile = point.setting, point.load, point.profile
    each = load.requests / load.concurrency
    counts = _counts(load.concurrency, load.concurrency)
    beside = [
        point
        if count == load.concurrency
        else predict(
            setting,
            profile,
            replace(load, concurrency=count, requests=max(1, round(each * count))),
            point.acceptance,
            point.memory.used_share,
        )
        for count in counts
    ]
    part = {
        "name": f"{load.concurrency} in flight",
        "asked": _lengths(load.input_tokens, load.output_tokens, load.length_range),
        "limits": None,
        "best": None,
        "at": _of_point(point),
        "curve": [_of_point(other) for other in beside],
        "split": _split(point.parts_ms),
        "floor_ms": point.floor_ms,
        "at_once": point.memory.requests(load.input_tokens + load.output_tokens),
        "headroom": {},
        "changes": [],
        "people": [],
        "front": [],
    }
    return Sheet(
        title=f"{setting.server.name} with {profile.title}",
        subtitle=f"{setting.layout}, {setting.recipe.name} weights, {setting.cache} KV, "
        f"{load.requests} requests" + (f". {setting.server.note}" if setting.server.note else ""),
        data={
            "parts": [part],
            "peak": None,
            "inside": None,
            "losers": [],
            **_shared(setting.server.device, point.memory, launches, steps),
            "profile": {"engine": profile.title, "rests_on": profile.rests_on},
            "notes": list(profile.notes),
        },
        script=SCRIPT,
        plain=as_text(point_page.page(point)),
        made=_made(),
    ).text()


def _made() -> str:
    return (
        f"fullbore plan, step-time model {model_version()}. Nothing here was measured on this server. "
        "Ranges hold the truth in 80 of 100 cases."
    )


def _part(part: Part, trial: Trial) -> dict[str, Any]:
    demand, advice, best = part.demand, part.advice, part.best
    limits = demand.limits
    return {
        "name": demand.name,
        "asked": _lengths(demand.input_tokens, demand.output_tokens, demand.length_range),
        "limits": {"tpot": limits.tpot_ms, "ttft": limits.ttft_ms, "percentile": limits.percentile},
        "best": asdict(best),
        "at": reached_json(part.reached),
        "at_once": trial.held.requests(demand.most_tokens),
        "curve": [reached_json(trial.at(demand, count)) for count in _counts(best.concurrency, best.hoped)],
        "split": _split(advice.parts_ms),
        "floor_ms": advice.floor_ms,
        "headroom": dict(advice.headroom),
        "changes": [asdict(change) for change in advice.changes],
        "people": [asdict(people) for people in part.people],
        "front": [
            {
                "way": str(spot.trial),
                "concurrency": spot.concurrency,
                "tpot_ms": spot.tpot_ms,
                "ttft_ms": spot.ttft_ms,
                "output_tok_s": spot.output_tok_s,
            }
            for spot in part.front
        ],
    }


def _counts(limit: int, hoped: int) -> list[int]:
    """Loads of a curve: powers of two, and evenly up to half as much again as the limit or a little beyond
    what may be hoped for, whichever is less."""
    most = min(MOST_IN_FLIGHT, max(4, round(limit * 1.25), min(round(hoped * 1.1), round(limit * 1.5))))
    found = {2**power for power in range(most.bit_length()) if 2**power <= most}
    found |= {max(1, round(most * step / _STEPS)) for step in range(1, _STEPS + 1)}
    return sorted(found | ({limit} if limit else set()))


def _of_point(point: Point) -> dict[str, Any]:
    return {
        "concurrency": point.load.concurrency,
        "tpot_ms": point.tpot_ms.as_dict(),
        "ttft_ms": point.ttft_ms.as_dict(),
        "output_tok_s": point.output_tok_s.as_dict(),
        "total_tok_s": point.total_tok_s.as_dict(),
    }


def _split(parts_ms: Mapping[str, float]) -> list[list[Any]]:
    """The largest first; what is nothing is left out."""
    ordered = sorted(parts_ms.items(), key=lambda item: -item[1])
    return [[kind, part_ms] for kind, part_ms in ordered if part_ms > 0]


def _lengths(input_tokens: int, output_tokens: int, length_range: float) -> str:
    varied = f", each from {length_range:g} of that" if length_range < 1 else ""
    return f"{input_tokens:,} tokens in, {output_tokens:,} out{varied}"


def _shared(
    device: Device, held: Memory, launches: Sequence[Launch], steps: Iterable[NextStep]
) -> dict[str, Any]:
    """What a plan and a point both tell."""
    small = held.device_bytes * _SMALL
    weights = [(name, size) for name, size in held.weights.items() if size >= small]
    rest = held.weight_bytes - sum(size for _, size in weights)
    return {
        "memory": {
            "device": device.name,
            "device_bytes": held.device_bytes,
            "used_share": held.used_share,
            "parts": [
                *sorted(weights, key=lambda item: -item[1]),
                *([("other weights", rest)] if rest > 0 else []),
                ("activations, graphs, buffers", held.workspace_bytes),
                ("KV cache", held.cache_bytes),
                ("kept free", held.reserve_bytes),
            ],
            "token_bytes": held.cache_token_bytes,
            "cache_tokens": held.cache_tokens,
            "most": [[tokens, count] for tokens, count in held.largest(1 << 30).items()],
        },
        "launches": [asdict(each) for each in launches],
        "steps": [asdict(each) for each in steps],
        "figures": list(_device_figures(device)),
    }


def _device_figures(device: Device) -> Iterator[dict[str, Any]]:
    for field, what, unit, size in _FIGURES:
        figure = getattr(device, field)
        if figure is not None:
            value = figure.value / size
            yield {"what": what, "value": value, "unit": unit, "mark": figure.mark, "source": figure.source}
