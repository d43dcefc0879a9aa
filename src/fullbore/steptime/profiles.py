"""Engine profiles: an engine's scheduling rules and its fitted factors on a device, and what they rest on.

``engines.toml`` holds the rules, ``factors.toml`` the factors; the latter is written by ``benchmarks.judge``.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from fullbore.errors import UsageError, did_you_mean
from fullbore.hardware.catalogue import Device
from fullbore.parallel.layout import Layout
from fullbore.steptime.factors import NO_DEVIATION, Deviation, Factors

_HERE = Path(__file__).parent
_ALIASES = {"tensorrt-llm": "trtllm", "trt-llm": "trtllm", "trt": "trtllm"}


@dataclass(frozen=True)
class Policy:
    """How an engine's scheduler chooses. chunk_tokens: prompt tokens in one step. most_running: sequences.

    mixed: decodes run beside prompt chunks (in-flight batching); otherwise they wait while prompts run.
    whole: a prompt is never cut, and a step has room for the longest one beside all decodes.
    each: both limits are those of each attention group, which fills its steps by itself.
    hold_steps: how long new prompts wait for others where there are several groups, so that none computes
    a prompt while the rest idles.
    reserved: share of its answer that a request must find room for when it is admitted.
    polls: (concurrency from which it holds, decode steps between two looks at new requests), ascending.
    captured: sequences of an attention group up to which decodes are replayed from a graph; None: always.
    """

    chunk_tokens: int
    most_running: int
    mixed: bool
    reserved: float = 1.0
    polls: tuple[tuple[int, int], ...] = ((1, 1),)
    whole: bool = False
    each: bool = False
    hold_steps: int = 1
    captured: int | None = None

    def over(self, groups: int) -> "Policy":
        """The limits of all attention groups together; with one group nothing is held."""
        if groups == 1:
            return replace(self, hold_steps=1)
        times = groups if self.each else 1
        return replace(self, chunk_tokens=self.chunk_tokens * times, most_running=self.most_running * times)

    def room_tokens(self, prompt_tokens: int, running: int) -> int:
        """For prompts in a step beside ``running`` decodes, when the longest prompt has so many tokens."""
        if self.whole:
            return max(self.chunk_tokens - running, prompt_tokens)
        return self.chunk_tokens - (running if self.mixed else 0)

    def poll_steps(self, concurrency: int) -> int:
        """What holds at this concurrency."""
        return max((entry for entry in self.polls if entry[0] <= concurrency), default=(0, 1))[1]


@dataclass(frozen=True)
class Engine:
    """An engine as it schedules, and what is known of it. basis: where its figures are from."""

    engine: str
    title: str
    epoch: str
    policy: Policy
    basis: str
    rests_on: str  # in a sentence
    notes: tuple[str, ...]  # what the user should know about the choice


@dataclass(frozen=True)
class Profile(Engine):
    """basis: where rows of this engine are from: fitted (this device), architecture (another device of it),
    vendor (another architecture), or assumed (there are none).
    """

    factors: Factors
    deviation: Deviation
    doubling: Deviation  # for each doubling of a load beyond the rows
    concurrency: tuple[int, int] | None = None  # of the rows, least and most; None where there are none
    input_tokens: tuple[int, int] | None = None
    unmeasured: Deviation = NO_DEVIATION  # for each of the two that no row has:
    weights: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()  # without their sizes

    def deviation_at(self, concurrency: int, input_tokens: int, weights: str, layout: Layout) -> Deviation:
        """``deviation``, wider the further a load is from the rows, and for what none of them has."""
        far = _doublings(concurrency, self.concurrency) + _doublings(input_tokens, self.input_tokens)
        wide = self.deviation.combined(Deviation(far * self.doubling.step, far * self.doubling.ttft))
        for name, seen in ((weights, self.weights), (_kind(str(layout)), self.layouts)):
            if seen and name not in seen:  # an interval that was assumed knows of neither
                wide = wide.combined(self.unmeasured)
        return wide


def engine_names() -> list[str]:
    """Every engine that has a profile."""
    return list(_read("engines.toml"))


def policy_of(engine: str, architecture: str) -> Policy:
    """The scheduler's rules of an engine, by its profile's name."""
    table = _read("engines.toml")[engine]
    values = {**table, **table.get(architecture, {})}
    values["polls"] = tuple((start, steps) for start, steps in values["polls"])
    names = [field.name for field in fields(Policy)]
    return Policy(**{name: values[name] for name in names if name in values})


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
        unmeasured=deviations["unmeasured"],
        layouts=tuple(_kind(name) for name in entry.get("layout", ())),
        **{name: tuple(entry[name]) for name in ("concurrency", "input_tokens", "weights") if name in entry},
    )


def _basis(entry: Mapping[str, Any], device: Device) -> str:
    if device.name in entry["devices"]:
        return "fitted"
    if entry["devices"]:
        return "architecture"
    return "vendor" if entry["rows"] else "assumed"


def _kind(layout: str) -> str:
    """``tpep`` of ``tp8ep8``: how work is divided, whatever the sizes."""
    return "".join(letter for letter in layout if letter.isalpha())


def _doublings(value: int, seen: tuple[int, int] | None) -> float:
    if seen is None:  # an interval that was assumed, not measured, holds for any load
        return 0.0
    return max(0.0, math.log2(value / seen[1]), math.log2(seen[0] / value))


def _factors(values: Mapping[str, float]) -> Factors:
    return Factors(**{field.name: values[field.name] for field in fields(Factors)})  # type: ignore[arg-type]


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_HERE / name).read_text(encoding="utf-8"))
