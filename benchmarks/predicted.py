"""The simulator beside a live server: ``python -m benchmarks.predicted MODEL URL``.

``fullbore bench`` measures the server at each load; right before and after, the ceilings are probed and the
same scenario is simulated by the tuner's table. Start ``fullbore serve MODEL`` first, on this machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fullbore.engine.options import EngineOptions
from fullbore.errors import FullboreError
from fullbore.kernels.probes import probes
from fullbore.plan.composition import composition
from fullbore.plan.here import Here, here
from fullbore.plan.simulator import Server, simulate
from fullbore.scenario.metrics import figures
from fullbore.scenario.scenario import load_scenario
from fullbore.screen import console

NAMES = ("tpot_ms", "ttft_ms", "output_tok_s")


def simulated(found: Here, args: argparse.Namespace, concurrency: int, requests: int) -> dict[str, float]:
    """TPOT, TTFT and throughput of the scenario by ``found``."""
    scenario = load_scenario(args.scenario).scaled(args.scale)
    server = Server(pages=args.pages, host_s=args.request_ms / 1e3)
    run = simulate(
        scenario.sessions("predicted", requests),
        server,
        lambda step: found.step_time.seconds(composition(step)),
        concurrency,
    )
    got = figures(run.records, concurrency, scenario.limits)
    return {
        "tpot_ms": got.tpot_ms.mean if got.tpot_ms else 0.0,
        "ttft_ms": got.ttft_ms.mean if got.ttft_ms else 0.0,
        "output_tok_s": got.output_tok_s or 0.0,
    }


def measured(args: argparse.Namespace, concurrency: int, requests: int) -> dict[str, float]:
    """The same by ``fullbore bench``. FullboreError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        words = [args.url, "--scenario", args.scenario, "--scale", str(args.scale), "--processes", "1"]
        words += ["--concurrency", str(concurrency), "--requests", str(requests), "--json", str(path)]
        done = subprocess.run(
            [sys.executable, "-m", "fullbore", "bench", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise FullboreError(f"fullbore bench failed: {done.stderr.strip()[-500:]}")
        result: Any = json.loads(path.read_text())
    got = result["results"][0]["figures"]
    return {
        "tpot_ms": got["tpot_ms"]["mean"],
        "ttft_ms": got["ttft_ms"]["mean"],
        "output_tok_s": got["output_tok_s"],
    }


def compare(args: argparse.Namespace) -> Table:
    """A row for each load and figure."""
    options = EngineOptions(model=args.model, concurrency=args.tuned_for)
    machine = probes()
    table = Table(
        "in flight", "figure", box=box.SIMPLE_HEAD, title=f"{args.scenario} x {args.scale}, {args.model}"
    )
    for name in ("predicted", "after", "measured", "error", "GB/s before, after"):
        table.add_column(name, justify="right")
    for concurrency in args.concurrency:
        requests = max(args.rounds * concurrency, 1)
        before = here(options, machine)
        truth = measured(args, concurrency, requests)
        after = here(options, machine)
        first, last = (simulated(each, args, concurrency, requests) for each in (before, after))
        rates = f"{before.ceiling.read / 1e9:.0f}, {after.ceiling.read / 1e9:.0f}"
        for name in NAMES:
            mean = (first[name] + last[name]) / 2
            table.add_row(
                str(concurrency),
                name,
                f"{first[name]:.4g}",
                f"{last[name]:.4g}",
                f"{truth[name]:.4g}",
                f"{mean / truth[name] - 1:+.1%}",
                rates,
            )
    return table


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.predicted", description=__doc__, allow_abbrev=False
    )
    add = made.add_argument
    add("model", help="what the server serves")
    add("url", help="where, on this machine")
    add("--scenario", default="dialog", help="(default: dialog)")
    add("--scale", type=Fraction, default=Fraction(1, 8), help="of its lengths (default: 1/8)")
    add("--concurrency", type=lambda text: [int(word) for word in text.split(",")], default=[1, 4, 16])
    add("--rounds", type=int, default=2, help="requests a slot (default: 2)")
    add("--pages", type=int, default=32768, help="of the server's cache (default: 32768)")
    add("--request-ms", type=float, default=0.0, help="a request's time outside of all steps (default: 0)")
    add("--tuned-for", type=int, default=0, help="--tune-concurrency of the server, as given there")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, else the exit code of the error that is told."""
    try:
        console(100, 120).print(compare(parser().parse_args(argv)))
    except FullboreError as error:
        console(80, 110, stderr=True).print(f"predicted: error: {error}", markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
