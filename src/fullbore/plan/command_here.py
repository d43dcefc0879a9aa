"""``fullbore plan`` for this machine: its kernels are timed where they were not, and a plan rests on that."""

import argparse
import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import msgspec

from fullbore.engine.first_tune import MODES, FirstTune
from fullbore.engine.options import EngineOptions
from fullbore.errors import CapacityError, FullboreError, UsageError
from fullbore.flags import whole_number
from fullbore.hardware.limits import busy_load, usable_cores
from fullbore.model.locate import locate
from fullbore.model.weights import STORED, recipe
from fullbore.ops.setting import KV_CACHE_DTYPES
from fullbore.plan.answer import Answer, Company, answer
from fullbore.plan.demand import Demand, longest
from fullbore.plan.http import http
from fullbore.plan.launch import Launch
from fullbore.plan.launch_here import launch_here
from fullbore.plan.search import Found, Ranked, search
from fullbore.plan.space import Unfit
from fullbore.plan.space_here import USUAL_CHUNKS, Machine, SpaceHere
from fullbore.plan.trial import Trial
from fullbore.plan.trial_here import TrialHere, settled
from fullbore.scenario.scenario import Scenario
from fullbore.steptime.step import HOST
from fullbore.steptime.table import TimesMissing

HERE, DEMO = "here", "demo"
# Flags of other servers, and what they are here.
_OTHERS = {
    "config": "the model is --model",
    "catalogue": "it is probed",
    "layout": "one machine computes everything",
    "mtp": "no drafts are computed on CPUs yet",
    "acceptance": "no drafts are computed on CPUs yet",
    "memory_fraction": "the server takes half of what is free for its cache",
}

# Of a step: bench-1b5 has 3 % with 16 in flight, the demo model a quarter and more (docs/planning.md).
_MUCH_HOST = 0.15


def add_here(add: Callable[..., Any]) -> None:
    """The flags of this machine alone. ``add``: ``add_argument`` of a group."""
    add(
        "--model",
        metavar="MODEL",
        help=f"as fullbore serve takes it (default: {DEMO}); its kernels are timed",
    )
    add(
        "--tune",
        choices=MODES,
        default="auto",
        help="time kernels first; auto: where times are missing (default: auto)",
    )
    add("--threads", type=_threads, default=0, metavar="N", help="(default: every core)")


def is_here(args: argparse.Namespace) -> bool:
    """Whether this machine is meant. UsageError for its flags beside another server."""
    if args.server.lower() == HERE:
        return True
    if args.model or args.threads:
        raise UsageError(
            f"--{'model' if args.model else 'threads'} is for this machine; the model of {args.server} is "
            "--config (leave out one of them)"
        )
    return False


def trial_here(args: argparse.Namespace, scenario: Scenario) -> Trial:
    """The one way that the flags describe; what they leave out is as in ``fullbore serve``. CapacityError
    where memory does not hold the longest request of ``scenario``."""
    _refuse(args)
    usual = EngineOptions(model="")
    space = SpaceHere(
        [recipe(args.weights or STORED).name],
        [_known_cache(args.kv or "auto")],
        [args.chunk or usual.max_num_batched_tokens],
        [args.running or usual.max_num_seqs],
    )
    found = next(timed_machine(args, space).trials(space, [longest(scenario)]))
    if isinstance(found, Unfit):
        raise CapacityError(found.why)
    return found


def plan_here(args: argparse.Namespace, demands: Sequence[Demand], peak: Demand, company: Company) -> Answer:
    """The answer for this machine. FullboreError with what is missing where nothing may be timed."""
    _refuse(args)
    load = busy_load(
        args.threads or usable_cores()
    )  # before kernels are timed, which are a load of their own
    space = SpaceHere(
        [recipe(name).name for name in args.weights or (STORED,)],
        [_known_cache(name) for name in args.kv or ("auto",)],
        args.chunk or USUAL_CHUNKS,
        args.running or (0,),
    )
    machine = timed_machine(args, space)
    found = settle(search(machine.trials(space, demands), demands))
    longest = max(demand.most_tokens for demand in demands)

    def launches(trial: Trial, running: int) -> tuple[Launch, ...]:
        if not isinstance(trial, TrialHere):
            raise TypeError("a way of another server")
        return (launch_here(trial, args.model or DEMO, running, longest),)

    made = answer(found, peak, company, launches)
    notes = [*made.notes]
    share = _host_share(found.best.trial, demands[0], found.best.limits[0])
    if share > _MUCH_HOST:
        notes.append(
            f"scheduler, network's Python and HTTP are {share:.0%} of a step: how such short steps share "
            "the cores is not modelled, and they took up to 2.7 times as long as predicted; "
            "measure with fullbore bench"
        )
    if load:
        notes.append(
            f"this machine is busy (load {load:.1f}), so what was probed is what others leave; on an idle "
            "one it carries more"
        )
    return replace(made, notes=tuple(notes))


def _host_share(trial: Trial, demand: Demand, limit: int) -> float:
    """Of a step of decodes."""
    cost = trial.model.of(trial.step(demand, max(1, limit)))
    return cost.terms_s[HOST] / cost.time_s.mean


def timed_machine(args: argparse.Namespace, space: SpaceHere, mode: str = "quick") -> Machine:
    """This machine, with the times of every way of ``space``: measured now, in ``mode``, where they are
    missing and ``--tune`` allows it."""
    # Waiting threads must sleep, as in the engine: two pools that spin keep each other from the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    options = EngineOptions(model=str(locate(args.model or DEMO)), device="cpu", threads=args.threads)
    if args.tune in ("quick", "thorough"):
        _tune(args.tune, options, space)
    machine = _machine(options)
    try:
        _know(machine, space)
    except TimesMissing as missing:
        if args.tune == "off":
            raise FullboreError(f"{missing}; or leave out --tune off, and they are timed first") from None
        _tune(mode, options, space)
        machine = _machine(options)
        _know(machine, space)
    return machine


def _machine(options: EngineOptions) -> Machine:
    from fullbore.kernels.probes import probes  # needs torch

    return Machine(options, probes().measure(), date.today().isoformat(), http(options.model))


def _know(machine: Machine, space: SpaceHere) -> None:
    for weights in space.weights:
        for cache in space.caches:
            machine.way(weights, cache)


def _tune(mode: str, options: EngineOptions, space: SpaceHere) -> None:
    for weights in space.weights:
        for cache in space.caches:
            wanted = msgspec.structs.replace(options, weights=weights, kv_cache_dtype=cache)
            asyncio.run(FirstTune(mode, wanted, every=True).run())


def settle(found: Found) -> Found:
    """``found`` with the winner's limits as the scheduler itself keeps them."""
    best, trial = found.best, found.best.trial
    if not isinstance(trial, TrialHere):
        raise TypeError("a way of another server")
    limits = tuple(settled(trial, demand) for demand in found.demands)
    for demand, limit in zip(found.demands, limits, strict=True):
        if not limit:
            alone = trial.at(demand, 1)
            raise FullboreError(
                f"{demand.name} cannot be kept with even one request in flight: TPOT {alone.tpot_ms:.1f} ms "
                f"(limit {demand.limits.tpot_ms:g}), TTFT {alone.ttft_ms:.0f} ms (limit "
                f"{demand.limits.ttft_ms:g})"
            )
    return replace(found, ranked=(Ranked(best.trial, limits), *found.ranked[1:]))


def _refuse(args: argparse.Namespace) -> None:
    for name, why in _OTHERS.items():
        value = getattr(args, name)
        if value not in (None, 0, (0,)):
            raise UsageError(
                f"--{name.replace('_', '-')} is for other servers: {why} (leave it out, or name a --server)"
            )
    if args.engine != "fullbore":
        raise UsageError(
            f"--engine {args.engine}: this machine is planned with fullbore (or name a --server)"
        )
    command = getattr(args, "command", None)
    if command and set(command) != {"fullbore"}:
        raise UsageError(f"--command {','.join(command)}: for this machine expected fullbore")


def _threads(text: str) -> int:
    return whole_number(text, 1, 4096)


def _known_cache(name: str) -> str:
    if name not in KV_CACHE_DTYPES:
        raise UsageError(f"--kv {name}: expected one of {', '.join(KV_CACHE_DTYPES)}")
    return name
