"""How well the step-time model predicts what it has not seen, and the factors that the package ships.

    python -m benchmarks.judge            fits, judges and prints the tables of docs/planning.md (minutes)
    python -m benchmarks.judge --write    and writes steptime/factors.toml and benchmarks/left_out.json

Groups are a device with an engine. A group is predicted from the other groups, which is a new server; half
of all concurrencies from the other half, which is a known server at another load; the high concurrencies from
the low ones, which is a known server far beyond what was measured.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.fit import Row, Values, compose, errors, fit, rows, start, touches
from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import find_server
from fullbore.steptime import profiles
from fullbore.steptime.step import Z80

FACTORS = Path(profiles.__file__).with_name("factors.toml")
LEFT_OUT = Path(__file__).with_name("left_out.json")
LOW = 16  # in flight, at most, where high concurrencies are predicted from low ones
ROUNDS, AGAIN = 8, 4  # of a fit from the priors, and of one from the fit to all rows


@dataclass(frozen=True)
class Judged:
    """Rows, and ln(truth / prediction) of TPOT and TTFT with factors that have not seen them."""

    group: str
    rows: tuple[Row, ...]
    errors: tuple[tuple[float, float], ...]
    values: Values

    def mean_error(self, what: int) -> float:
        """Mean of |prediction / truth - 1|."""
        return float(np.mean([abs(math.exp(-pair[what]) - 1) for pair in self.errors]))

    def bias(self, what: int) -> float:
        """Mean of prediction / truth - 1."""
        return float(np.mean([math.exp(-pair[what]) - 1 for pair in self.errors]))


def judged(name: str, held: Sequence[Row], values: Values) -> Judged:
    return Judged(name, tuple(held), tuple(errors(row, values) for row in held), values)


def without_groups(everything: Sequence[Row], full: Values, rounds: int) -> list[Judged]:
    """Each group (device x engine) predicted from the others."""
    found = []
    for group in dict.fromkeys(row.group for row in everything):
        kept = [row for row in everything if row.group != group]
        held = [row for row in everything if row.group == group]
        values = {**start(everything), **fit(kept, full, rounds)}
        # What no kept row has to do with is as it was before any.
        for key, prior in start(everything).items():
            if not any(touches(key, row) for row in kept):
                values[key] = prior
        found.append(judged(group, held, values))
    return found


def within_groups(everything: Sequence[Row], full: Values, rounds: int) -> list[Judged]:
    """Both halves of all groups, each predicted from the other: new concurrencies of a known group."""
    found = []
    for half in (0, 1):  # rows of one concurrency stay together
        held = [row for row in everything if int(math.log2(row.load.concurrency)) % 2 == half]
        kept = [row for row in everything if row not in held]
        found.append(judged(f"half {half + 1}", held, fit(kept, full, rounds)))
    return found


def beyond(everything: Sequence[Row], full: Values, rounds: int) -> list[Judged]:
    """High concurrencies of all groups, predicted from the low ones; errors are those of one doubling."""
    held = [row for row in everything if row.load.concurrency > LOW]
    kept = [row for row in everything if row not in held]
    seen = judged("beyond", held, fit(kept, full, rounds))
    doublings = [math.log2(row.load.concurrency / LOW) for row in held]
    scaled = [(tpot / far, ttft / far) for (tpot, ttft), far in zip(seen.errors, doublings, strict=True)]
    return [Judged(seen.group, seen.rows, tuple(scaled), seen.values)]


def spread(of: Iterable[Judged], what: int) -> float:
    """The deviation whose 80 % interval held 80 % of these truths."""
    sizes = [abs(pair[what]) for each in of for pair in each.errors]
    return float(np.quantile(sizes, 0.8)) / Z80


def profiles_toml(
    everything: Sequence[Row],
    full: Values,
    groups: Sequence[Judged],
    halves: Sequence[Judged],
    far: Sequence[Judged],
) -> str:
    """factors.toml: factors of every engine on every architecture, what they rest on, and the deviations."""
    new, known = (spread(groups, 0), spread(groups, 1)), (spread(halves, 0), spread(halves, 1))
    deviations = {
        "fitted": known,
        # Priors were chosen by people who had seen the rows, which flatters: both errors are added.
        "architecture": (math.hypot(new[0], known[0]), math.hypot(new[1], known[1])),
        # Of the parts that have no rows, on top of what was measured: as far as the priors themselves may be
        # off, since a step of few sequences is mostly time that only rows tell.
        "vendor": (math.hypot(new[0], 0.25), math.hypot(new[1], 0.3)),
        "assumed": (math.hypot(new[0], 0.3), math.hypot(new[1], 0.4)),
        # Added in quadrature, for each of weights' format and layout that no row has (judgement).
        "unmeasured": (0.12, 0.25),
        # Added in quadrature: for another version than the rows' (judgement), and for each doubling of
        # concurrency or prompt beyond the rows.
        "epoch": (0.08, 0.12),
        "doubling": (spread(far, 0), spread(far, 1)),
    }
    lines = [
        "# Written by: python -m benchmarks.judge --write. Deviations are of ln(truth / prediction).",
        "",
    ]
    for basis, (step, ttft) in deviations.items():
        lines += [f"[deviations.{basis}]", f"step = {step:.4f}", f"ttft = {ttft:.4f}", ""]
    for engine in profiles.engine_names():
        for vendor, architecture in dict.fromkeys((d.vendor, d.architecture) for d in catalogue()):
            if engine == "trtllm" and vendor != "nvidia":
                continue
            lines += _profile(everything, full, engine, vendor, architecture)
    return "\n".join(lines)


def _profile(
    everything: Sequence[Row], full: Values, engine: str, vendor: str, architecture: str
) -> Iterable[str]:
    """The two tables of one engine on one architecture: the rows it rests on, and the factors."""
    mine = [row for row in everything if row.engine.split("@")[0] == engine]
    here = [row for row in mine if find_server(row.server).device.architecture == architecture]
    near = here or [row for row in mine if find_server(row.server).device.vendor == vendor]
    name = f"{engine}.{architecture}"
    yield f"[profiles.{name}]"
    yield f"rows = {len(near)}"
    yield f"devices = {_names(here)}"
    if not here:
        yield f"near = {_names(near)}"
    if near:
        for field in ("concurrency", "input_tokens"):
            sizes = [getattr(row.load, field) for row in near]
            yield f"{field} = [{min(sizes)}, {max(sizes)}]"
        for field in ("weights", "layout"):
            yield f"{field} = {json.dumps(sorted({getattr(row, field) for row in near}))}"
    yield f"[profiles.{name}.factors]"
    for factor, value in asdict(compose(full, vendor, architecture, engine)).items():
        yield f"{factor} = {value if factor == 'tile' else float(f'{value:.4g}')}"
    yield ""


def _names(of: Sequence[Row]) -> str:
    return json.dumps(list(dict.fromkeys(find_server(row.server).device.name for row in of)))


def table(everything: Sequence[Row], full: Values, groups: Sequence[Judged], halves: Sequence[Judged]) -> str:
    """Markdown: errors by group, fitted with all rows, without half of them, and without the group."""
    lines = [
        "| group | rows | TPOT all | half | left out (bias) | TTFT all | half | left out (bias) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in groups:
        seen = judged(group.group, group.rows, full)
        pairs = [
            pair
            for half in halves
            for row, pair in zip(half.rows, half.errors, strict=True)
            if row in group.rows
        ]
        half = Judged(group.group, group.rows, tuple(pairs), full)
        cells = [
            text
            for what in (0, 1)
            for text in (
                f"{seen.mean_error(what):.1%}",
                f"{half.mean_error(what):.1%}",
                f"**{group.mean_error(what):.1%}** ({group.bias(what):+.1%})",
            )
        ]
        lines.append(f"| {group.group} | {len(group.rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def coverage(of: Sequence[Judged], step: float, ttft: float) -> tuple[float, float]:
    """Share of truths inside the 80 % interval of these deviations, TPOT and TTFT."""
    pairs = [pair for each in of for pair in each.errors]
    inside = [[abs(pair[what]) <= Z80 * (step, ttft)[what] for pair in pairs] for what in (0, 1)]
    return float(np.mean(inside[0])), float(np.mean(inside[1]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the package's factors too")
    arguments = parser.parse_args(argv)
    everything = rows()
    full = fit(everything, start(everything), ROUNDS)
    groups = without_groups(everything, full, AGAIN)
    halves = within_groups(everything, full, AGAIN)
    far = beyond(everything, full, AGAIN)
    print(table(everything, full, groups, halves))
    for name, of in (("a new server", groups), ("a new load", halves)):
        # Each group's interval comes from the others, or it would hold its own rows by construction.
        others = [[each for each in of if each is not mine] for mine in of]
        shares = [
            coverage([mine], spread(rest, 0), spread(rest, 1)) for mine, rest in zip(of, others, strict=True)
        ]
        weights = [len(each.rows) for each in of]
        tpot, ttft = np.average(np.array(shares), axis=0, weights=weights)
        print(
            f"80 % intervals for {name}, each from the other parts: hold {tpot:.0%} (TPOT), {ttft:.0%} (TTFT)"
        )
    print(
        f"high concurrencies from those up to {LOW}: deviation {spread(far, 0):.1%} (TPOT) and "
        f"{spread(far, 1):.1%} (TTFT) for each doubling"
    )
    if arguments.write:
        FACTORS.write_text(profiles_toml(everything, full, groups, halves, far))
        LEFT_OUT.write_text(json.dumps(_left_out(groups), indent=1) + "\n")
    return 0


def _left_out(groups: Iterable[Judged]) -> dict[str, object]:
    """For each group the factors that were fitted without it, and the errors that they gave."""
    found: dict[str, object] = {}
    for group in groups:
        device = find_server(group.rows[0].server).device
        engine = group.rows[0].engine.split("@")[0]
        factors = asdict(compose(group.values, device.vendor, device.architecture, engine))
        found[group.group] = {
            "factors": {name: float(f"{value:.6g}") for name, value in factors.items()},
            "tpot_error": round(group.mean_error(0), 4),
            "ttft_error": round(group.mean_error(1), 4),
        }
    return found


if __name__ == "__main__":
    sys.exit(main())
