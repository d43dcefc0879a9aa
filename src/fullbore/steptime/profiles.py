"""Engine profiles: an engine's scheduling rules and its fitted factors on a device, and what they rest on.

``engines.toml`` holds the rules, ``factors.toml`` the factors; the latter is written by ``benchmarks.judge``.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from fullbore.errors import UsageError, did_you_mean
from fullbore.hardware.catalogue import Device
from fullbore.steptime.factors import Deviation, Factors

_HERE = Path(__file__).parent
_ALIASES = {"tensorrt-llm": "trtllm", "trt-llm": "trtllm", "trt": "trtllm"}


@dataclass(frozen=True)
class Policy:
    """How an engine's scheduler chooses. chunk_tokens: prompt tokens in one step. most_running: sequences.

    mixed: decodes run beside prompt chunks (in-flight batching); otherwise they wait while prompts run.
    reserved: share of its answer that a request must find room for when it is admitted.
    polls: (concurrency from which it holds, decode steps between two looks at new requests), ascending.
    captured: sequences of an attention group up to which decodes are replayed from a graph; None: always.
    """

    chunk_tokens: int
    most_running: int
    mixed: bool
    reserved: float = 1.0
    polls: tuple[tuple[int, int], ...] = ((1, 1),)
    captured: int | None = None

    def poll_steps(self, concurrency: int) -> int:
        """What holds at this concurrency."""
        return max((entry for entry in self.polls if entry[0] <= concurrency), default=(0, 1))[1]


@dataclass(frozen=True)
class Profile:
    """basis: where rows of this engine are from: fitted (this device), architecture (another device of it),
    vendor (another architecture), or assumed (there are none).
    """

    engine: str
    title: str
    epoch: str
    policy: Policy
    factors: Factors
    deviation: Deviation
    basis: str
    rests_on: str  # in a sentence
    notes: tuple[str, ...]  # what the user should know about the choice
    doubling: Deviation  # for each doubling of a load beyond the rows
    concurrency: tuple[int, int] | None = None  # of the rows, least and most; None where there are none
    input_tokens: tuple[int, int] | None = None

    def deviation_at(self, concurrency: int, input_tokens: int) -> Deviation:
        """``deviation``, wider the further a load is from the rows."""
        far = _doublings(concurrency, self.concurrency) + _doublings(input_tokens, self.input_tokens)
        return self.deviation.combined(Deviation(far * self.doubling.step, far * self.doubling.ttft))


def engine_names() -> list[str]:
    """Every engine that has a profile."""
    return list(_read("engines.toml"))


def policy_of(engine: str, architecture: str) -> Policy:
    """The scheduler's rules of an engine, by its profile's name."""
    table = _read("engines.toml")[engine]
    values = {**table, **table.get(architecture, {})}
    polls = tuple((start, steps) for start, steps in values["polls"])
    return Policy(
        values["chunk_tokens"],
        values["most_running"],
        values["mixed"],
        values["reserved"],
        polls,
        values.get("captured"),
    )


def split_engine(text: str) -> tuple[str, str]:
    """(name, version or "") of ``sglang@0.5.9``; UsageError for an engine without a profile."""
    name, _, version = text.lower().partition("@")
    name = _ALIASES.get(name, name)
    if name not in engine_names():
        raise UsageError(
            f"unknown engine {text[:40]!r}{did_you_mean(name, engine_names())}; expected one of "
            f"{', '.join(engine_names())}, with a version such as sglang@0.5.9 if you like"
        )
    return name, version.removeprefix("v")[:40]


def find_profile(text: str, device: Device) -> Profile:
    """The profile nearest to an engine and version on ``device``; ``notes`` say where another was asked."""
    engine, version = split_engine(text)
    table, file = _read("engines.toml")[engine], _read("factors.toml")
    title, epoch = table["title"], table["epoch"]
    entries = file["profiles"][engine]
    if device.architecture not in entries:
        able = [each for each in engine_names() if device.architecture in file["profiles"][each]]
        raise UsageError(
            f"no profile of {title} on {device.name}; "
            + (
                f"expected an engine that runs there: {', '.join(able)}"
                if able
                else f"no engine has one for its architecture, {device.architecture}; architectures with "
                f"profiles are {', '.join(entries)}"
            )
        )
    entry = entries[device.architecture]
    basis = _basis(entry, device)
    notes = []
    other_epoch = bool(version) and version.split("-")[0] != epoch  # 0.5.9-rocm700 is a build of 0.5.9
    if other_epoch:
        known = f"{title} {epoch}" if epoch else f"{title} of an unstated version"
        notes.append(f"no rows of {title} {version}: predicted as {known}, the nearest epoch known")
    rests_on = f"{entry['rows']} published rows of {title} on {', '.join(entry['devices'] or entry['near'])}"
    if basis == "assumed":
        rests_on = "the mean factors of this vendor's devices, not a measurement"
        notes.append(f"no rows of {title} on any device of this vendor")
    elif basis != "fitted":
        notes.append(f"no rows of {title} on {device.name}: scaled by its bandwidth, arithmetic and links")
    deviations = {name: Deviation(**values) for name, values in file["deviations"].items()}
    wide = deviations[basis]
    return Profile(
        engine=engine,
        title=title,
        epoch=epoch,
        policy=policy_of(engine, device.architecture),
        factors=_factors(entry["factors"]),
        deviation=wide.combined(deviations["epoch"]) if other_epoch else wide,
        basis=basis,
        rests_on=rests_on,
        notes=tuple(notes),
        doubling=deviations["doubling"],
        **{name: tuple(entry[name]) for name in ("concurrency", "input_tokens") if name in entry},
    )


def _basis(entry: Mapping[str, Any], device: Device) -> str:
    if device.name in entry["devices"]:
        return "fitted"
    if entry["devices"]:
        return "architecture"
    return "vendor" if entry["rows"] else "assumed"


def _doublings(value: int, seen: tuple[int, int] | None) -> float:
    if seen is None:  # an interval that was assumed, not measured, holds for any load
        return 0.0
    return max(0.0, math.log2(value / seen[1]), math.log2(seen[0] / value))


def _factors(values: Mapping[str, float]) -> Factors:
    return Factors(**{field.name: values[field.name] for field in fields(Factors)})  # type: ignore[arg-type]


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_HERE / name).read_text(encoding="utf-8"))
