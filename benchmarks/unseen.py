"""How well the shipped factors predict published results that they were never fitted to.

    python -m benchmarks.unseen            errors by group, of the rows of benchmarks/unseen.csv
    python -m benchmarks.unseen --rows     and of every row

The rows have other lengths, layouts, formats, engines and devices than those of steptime/published.csv. They
are predicted as ``fullbore plan point`` would, memory and intervals included.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.fit import DEEPSEEK, Row, rows
from fullbore.errors import CapacityError
from fullbore.hardware.servers import find_server
from fullbore.parallel.layout import parse_layout
from fullbore.plan.point import predict
from fullbore.steptime.model import Setting
from fullbore.steptime.network import find_recipe
from fullbore.steptime.profiles import find_profile
from fullbore.steptime.step import Interval

UNSEEN = Path(__file__).with_name("unseen.csv")


@dataclass(frozen=True)
class Seen:
    """One row, and what was expected of it; None where the memory plan refuses what was run."""

    row: Row
    tpot_ms: Interval | None
    ttft_ms: Interval | None

    @property
    def group(self) -> str:
        row = self.row
        name = row.engine.split("@")[0]
        return f"{row.server} {name} {row.weights} {row.layout}, {row.load.input_tokens} in"


def expect(row: Row) -> Seen:
    """What ``plan point`` says to the row's question."""
    server = find_server(row.server)
    setting = Setting(DEEPSEEK, server, parse_layout(row.layout), find_recipe(row.weights), row.kv)
    try:
        found = predict(setting, find_profile(row.engine, server.device), row.load)
    except CapacityError:
        return Seen(row, None, None)
    return Seen(row, found.tpot_ms, found.ttft_ms)


def errors(pairs: Sequence[tuple[float, Interval]]) -> tuple[float, float, float]:
    """Mean of |prediction / truth - 1|, its bias, and the share of truths inside the 80 % intervals."""
    off = [said.mean / truth - 1 for truth, said in pairs]
    inside = [said.p10 <= truth <= said.p90 for truth, said in pairs]
    return fmean(map(abs, off)), fmean(off), fmean(inside)


def cells(of: Sequence[Seen]) -> str:
    """One line of the table: rows, then error (bias) and coverage of TPOT and of TTFT."""
    tpot = [(each.row.tpot_ms, each.tpot_ms) for each in of if each.tpot_ms is not None]
    ttft = [(each.row.ttft_ms, each.ttft_ms) for each in of if each.ttft_ms is not None]
    if not tpot:
        return f"{len(of)} | no room | | no room | "
    texts = [f"{error:.1%} ({bias:+.1%}) | {held:.0%}" for error, bias, held in (errors(tpot), errors(ttft))]
    return " | ".join([str(len(of)), *texts])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unseen", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", action="store_true", help="print every row too")
    arguments = parser.parse_args(argv)
    found = [expect(row) for row in rows(UNSEEN)]
    if arguments.rows:
        for each in found:
            said = [
                "no room" if interval is None else f"{interval.mean:.2f}"
                for interval in (each.tpot_ms, each.ttft_ms)
            ]
            truth = each.row
            print(f"{truth.id}: TPOT {truth.tpot_ms} ({said[0]}), TTFT {truth.ttft_ms} ({said[1]}) ms")
    groups = defaultdict(list)
    for each in found:
        groups[each.group].append(each)
    print("| group | rows | TPOT (bias) | inside | TTFT (bias) | inside |\n|---|---|---|---|---|---|")
    for name, of in groups.items():
        print(f"| {name} | {cells(of)} |")
    print(f"| all | {cells(found)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
