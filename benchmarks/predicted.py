"""What a plan of this machine is worth: ``python -m benchmarks.predicted MODEL``.

It starts ``fullbore serve MODEL``, measures it with ``fullbore bench`` at each load, and predicts the same by
the tuner's table, at the ceilings that were probed right before and right after. What the client takes of the
machine is measured against a server without a model. Operators that were never timed are timed first.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from fractions import Fraction
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.peers.peer import Command
from benchmarks.peers.processes import free_port, running
from fullbore.engine.options import EngineOptions
from fullbore.errors import FullboreError, UsageError
from fullbore.hardware.ceiling import Ceiling
from fullbore.kernels.probes import probes
from fullbore.model.locate import locate
from fullbore.plan.command_here import timed_machine
from fullbore.plan.demand import Demand, demand_of
from fullbore.plan.http import http
from fullbore.plan.space import Unfit
from fullbore.plan.space_here import Machine, SpaceHere
from fullbore.plan.trial import Reached
from fullbore.plan.trial_here import TrialHere
from fullbore.scenario.scenario import Scenario, load_scenario
from fullbore.screen import console

FULLBORE = (sys.executable, "-m", "fullbore")
RUNNING, CHUNK, START_S = 64, 512, 300.0
FEWEST = 4  # requests at a load
CLIENT_LOADS, CLIENT_SLOTS = (64, 512), 16  # answers' tokens against the server without a model; in flight
NAMES = {"tpot_ms": "TPOT ms", "ttft_ms": "TTFT ms", "output_tok_s": "output tok/s"}


@dataclass(frozen=True)
class Row:
    """One scenario at one load. ``errors``: prediction over truth, less one, by figure."""

    scenario: str
    concurrency: int
    requests: int
    read_gb_s: tuple[float, float]  # before and after
    predicted: dict[str, float]
    measured: dict[str, float]
    errors: dict[str, float]


def bench(url: str, scenario: Scenario, concurrency: int, requests: int) -> dict[str, Any]:
    """Figures of ``fullbore bench``. FullboreError where it fails, or a request did."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        words = [url, "--scenario", scenario.name, "--scale", str(scenario.scale), "--processes", "1"]
        words += ["--concurrency", str(concurrency), "--requests", str(requests), "--json", str(path)]
        done = subprocess.run((*FULLBORE, "bench", *words), capture_output=True, text=True, check=False)
        if done.returncode:
            raise FullboreError(f"fullbore bench failed: {done.stderr.strip()[-500:]}")
        result: dict[str, Any] = json.loads(path.read_text())["results"][0]["figures"]
    if result["requests_failed"]:
        raise FullboreError(f"{result['requests_failed']} of {requests} requests failed")
    return result


def client_us() -> float:
    """CPU time of the client for each token, against a server that answers at once: the difference between
    long and short answers, in which no start of a process is left."""
    port = free_port()
    command = Command([*FULLBORE, "bench", "mock", "--port", str(port), "--tpot", "2ms", "--ttft", "5ms"])
    taken, tokens = list[float](), list[int]()
    with tempfile.TemporaryDirectory() as folder, running(command, port, Path(folder) / "log") as server:
        server.wait_ready("/v1/models", START_S)
        for answer in CLIENT_LOADS:
            begin = _children_s()
            scenario = load_scenario("dialog").scaled(Fraction(answer, 1024))
            seen = bench(server.url, scenario, CLIENT_SLOTS, 2 * CLIENT_SLOTS)
            taken.append(_children_s() - begin)
            tokens.append(int(seen["output_tokens"]))
    return max(0.0, 1e6 * (taken[1] - taken[0]) / (tokens[1] - tokens[0]))


def _children_s() -> float:
    """CPU seconds of ended children; a server that still runs is none of them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def predicted(machine: Machine, demand: Demand, concurrency: int, rounds: int) -> Reached:
    """By the scheduler itself, in virtual time, as the server is started here."""
    space = SpaceHere(chunks=(CHUNK,), running=(RUNNING,))
    trial = next(machine.trials(space, [demand]))
    if isinstance(trial, Unfit) or not isinstance(trial, TrialHere):
        raise FullboreError(f"the server's cache does not hold one request of {demand.name}")
    seen = trial.by_scheduler(demand, concurrency, rounds)
    if seen is None:
        raise UsageError(f"{demand.name} is too long to be simulated here (use a smaller scale)")
    return seen


def between(one: Ceiling, other: Ceiling) -> Ceiling:
    """Half of the time at one, half at the other."""
    return Ceiling(
        2 / (1 / one.read + 1 / other.read),
        {kind: 2 / (1 / flops + 1 / other.flops[kind]) for kind, flops in one.flops.items()},
    )


def compare(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each scenario and load, as soon as it is there."""
    timed_machine(
        argparse.Namespace(model=args.model, threads=0, tune=args.tune), SpaceHere(), mode=args.missing
    )
    options = EngineOptions(model=str(locate(args.model)), device="cpu")
    alone = http(options.model)
    both = replace(alone, token_us=alone.token_us + client_us())
    print(f"of each token: HTTP {alone.token_us:.0f} us, client {both.token_us - alone.token_us:.0f} us")
    host = None
    port, ceilings = free_port(), probes()
    command = [*FULLBORE, "serve", args.model, "--device", "cpu", "--port", str(port), "--tune", "off"]
    command += ["--max-num-seqs", str(RUNNING), "--max-num-batched-tokens", str(CHUNK)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Command(command), port, Path(folder) / "log") as server,
    ):
        server.wait_ready("/ready", START_S)
        for scenario, concurrency in product(args.scenarios, args.concurrency):
            rounds = max(args.rounds, -(-FEWEST // concurrency))
            before = ceilings.measure()
            truth = bench(server.url, scenario, concurrency, rounds * concurrency)
            after = ceilings.measure()
            machine = Machine(options, between(before, after), _today(), both, host=host)
            seen = predicted(machine, demand_of(scenario), concurrency, rounds)
            host = machine.host
            yield _row(scenario, seen, truth, rounds * concurrency, (before, after))


def _today() -> str:
    return date.today().isoformat()


def _row(
    scenario: Scenario, seen: Reached, truth: dict[str, Any], requests: int, around: tuple[Ceiling, Ceiling]
) -> Row:
    measured = {
        "tpot_ms": truth["tpot_ms"]["mean"],
        "ttft_ms": truth["ttft_ms"]["mean"],
        "output_tok_s": truth["output_tok_s"],
    }
    told = {name: getattr(seen, name) for name in NAMES}
    errors = {name: told[name] / measured[name] - 1 for name in NAMES}
    read = (around[0].read / 1e9, around[1].read / 1e9)
    name = f"{scenario.name} x {scenario.scale}"
    return Row(name, seen.concurrency, requests, read, told, measured, errors)


def table(rows: Sequence[Row]) -> Table:
    """Three lines a row, and what the errors are on average."""
    made = Table("scenario", box=box.SIMPLE_HEAD)
    for name in ("in flight", "GB/s before, after", "", "predicted", "measured", "error"):
        made.add_column(name, justify="right")
    for row in rows:
        first = (row.scenario, str(row.concurrency), f"{row.read_gb_s[0]:.0f}, {row.read_gb_s[1]:.0f}")
        for name, words in NAMES.items():
            figures = (f"{row.predicted[name]:.4g}", f"{row.measured[name]:.4g}", f"{row.errors[name]:+.1%}")
            made.add_row(*first, words, *figures)
            first = ("", "", "")
    for name, words in NAMES.items():
        errors = [abs(row.errors[name]) for row in rows]
        mean, most = f"{fmean(errors):.1%}", f"{max(errors):.1%}"
        made.add_row("mean, and most", "", "", words, "", mean, most)
    return made


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.predicted", description=__doc__, allow_abbrev=False
    )
    add = made.add_argument
    add("model", help="as fullbore serve takes it")
    add(
        "--scenarios",
        type=_scenarios,
        default="dialog:1/8,code:1/16",
        metavar="NAME:SCALE,...",
        help="with the factor of their lengths (default: %(default)s)",
    )
    add("--concurrency", type=lambda text: [int(word) for word in text.split(",")], default=[1, 4, 16, 64])
    add("--rounds", type=int, default=2, help=f"requests a slot (default: 2, {FEWEST} in all at least)")
    add("--tune", choices=("auto", "off", "quick", "thorough"), default="auto", help="as in fullbore plan")
    add("--missing", choices=("quick", "thorough"), default="thorough", help="how auto times what is missing")
    add("--json", type=Path, metavar="FILE", help="write the rows there too")
    return made


def _scenarios(text: str) -> list[Scenario]:
    pairs = (word.partition(":") for word in text.split(","))
    return [load_scenario(name).scaled(Fraction(scale or 1)) for name, _, scale in pairs]


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, else the exit code of the error that is told. What was measured until then is shown."""
    args, rows, code = parser().parse_args(argv), list[Row](), 0
    try:
        for row in compare(args):
            rows.append(row)
            told = ", ".join(f"{words} {row.errors[name]:+.1%}" for name, words in NAMES.items())
            print(f"{row.scenario}, {row.concurrency} in flight: {told}", flush=True)
    except FullboreError as error:
        console(80, 110, stderr=True).print(f"predicted: error: {error}", markup=False)
        code = error.exit_code
    if rows:
        console(100, 120).print(table(rows))
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
