"""Every way to serve a model on this machine that is worth a try, and what is known of others."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from fullbore.engine.options import EngineOptions
from fullbore.engine.sizing import CACHE_SHARE
from fullbore.errors import CapacityError
from fullbore.hardware.limits import free_memory_bytes, usable_cores
from fullbore.hardware.machine import as_toml, describe
from fullbore.hardware.servers import Server, find_server
from fullbore.model.weights import RECIPES, STORED
from fullbore.ops.times import Times
from fullbore.parallel.layout import Layout
from fullbore.plan.demand import Demand
from fullbore.plan.here import Here, here
from fullbore.plan.http import Http
from fullbore.plan.memory import Memory, activation_bytes
from fullbore.plan.space import Unfit, check_lengths
from fullbore.plan.trial import Trial
from fullbore.plan.trial_here import Served, TrialHere
from fullbore.steptime.measured import Host, MeasuredStepTime
from fullbore.steptime.model import Setting
from fullbore.steptime.network import RECIPES as FORMATS
from fullbore.steptime.profiles import Engine, Policy
from fullbore.steptime.table import TimesMissing

if TYPE_CHECKING:
    from fullbore.hardware.ceiling import Ceiling  # needs torch

USUAL_CHUNKS = (256, 512, 1024, 2048)
_CACHES = ("auto", "fp8")  # as --kv-cache-dtype takes them
_NAMES = {"bfloat16": "bf16", "float32": "fp32"}  # of a cache as it is computed


@dataclass(frozen=True)
class SpaceHere:
    """What is varied. caches: as ``--kv-cache-dtype`` takes them. running: 0 for as many as a step holds."""

    weights: Sequence[str] = (STORED,)
    caches: Sequence[str] = ("auto",)
    chunks: Sequence[int] = USUAL_CHUNKS
    running: Sequence[int] = (0,)


class Machine:
    """The machine at hand: what options mean for a model on it, each found out once.

    ceiling: probed just now. http: what its HTTP process takes. times: None for the tuner's table. host:
    None to measure it.
    """

    def __init__(
        self, base: EngineOptions, ceiling: "Ceiling", date: str, http: Http,
        times: Times | None = None, host: Host | None = None, free_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self._base, self._ceiling, self._times, self._host = base, ceiling, times, host
        self._http = http
        told = describe(ceiling.read, ceiling.flops, (), date)
        entry = find_server("here", tomllib.loads(as_toml(replace(told, name="here"))))
        note = f"{told.cpu}, {base.threads or told.threads} threads; {ceiling.describe()} (probed now)"
        self.server = Server("this machine", entry.device, 1, note)
        self._free_bytes = free_memory_bytes() if free_bytes is None else free_bytes
        self._found: dict[EngineOptions, Here | TimesMissing] = {}

    @property
    def host(self) -> Host | None:
        """What a step costs beside its operators; None until a way was asked for."""
        return self._host

    def way(self, weights: str, cache: str) -> Served:
        """TimesMissing where a kernel of it was never timed."""
        options = msgspec.structs.replace(self._base, weights=weights, kv_cache_dtype=cache)
        if options not in self._found:
            try:
                self._found[options] = self._here(options)
            except TimesMissing as missing:
                self._found[options] = missing
        found = self._found[options]
        if isinstance(found, TimesMissing):
            raise found
        return Served(options, found, self._http.request_us * 1e-6)

    def _here(self, options: EngineOptions) -> Here:
        found = here(options, self._ceiling, self._times, self._host)
        self._host = found.step_time.host
        threads = options.threads or usable_cores()
        shared = self._http.beside(self._host, threads, usable_cores())
        return replace(found, step_time=MeasuredStepTime(found.step_time.operators, shared))

    def trials(self, space: SpaceHere, demands: Sequence[Demand]) -> Iterator[Trial | Unfit]:
        """Every way of ``space``; memory must hold the longest request. TimesMissing; UsageError for requests
        longer than the model's context."""
        for weights in space.weights:
            for cache in space.caches:
                way = self.way(weights, cache)
                check_lengths(way.found.config, demands)
                for chunk in space.chunks:
                    for running in dict.fromkeys(min(each or chunk, chunk) for each in space.running):
                        yield self._trial(way, chunk, running, max(each.most_tokens for each in demands))

    def _trial(self, way: Served, chunk: int, running: int, longest: int) -> "TrialHere | Unfit":
        setting = self._setting(way)
        try:
            held = memory_here(way, setting, chunk, longest, self._free_bytes)
        except CapacityError as error:
            return Unfit(setting, str(error))
        table = (
            "this machine's table of operator times (fullbore tune), probed ceilings, and CPU times of the "
            "engine's host and of the HTTP process; clients run elsewhere"
        )
        engine = Engine(
            "fullbore",
            "Fullbore",
            "",
            Policy(chunk, running, True, 0.0),
            "measured",
            table,
            self.unknown(way),
        )
        return TrialHere(way, setting, engine, held, self._variants)

    def _setting(self, way: Served) -> Setting:
        options, found = way.options, way.found
        cache = _NAMES[found.dtype] if options.kv_cache_dtype == "auto" else options.kv_cache_dtype
        recipe = replace(FORMATS["fp8" if found.config.quantised else "bf16"], name=options.weights)
        return Setting(found.config, self.server, Layout(), recipe, cache)

    def unknown(self, way: Served) -> tuple[str, ...]:
        """What else might be chosen, and was never timed."""
        missing = []
        for flag, weights, cache in _others(way):
            try:
                self.way(weights, cache)
            except TimesMissing:
                missing.append(flag)
        if not missing:
            return ()
        return (
            f"never timed here, so nothing is said of {', '.join(missing)}: name them in --weights or --kv, "
            "and they are measured",
        )

    def _variants(self, trial: TrialHere) -> Iterator[tuple[str, Trial]]:
        policy = trial.profile.policy
        for flag, weights, cache in _others(trial.way):
            try:
                way = self.way(weights, cache)
            except TimesMissing:
                continue
            other = self._trial(way, policy.chunk_tokens, policy.most_running, 1)
            if isinstance(other, TrialHere):
                yield flag, other
        found = trial.way.found
        host = found.step_time.host
        half = replace(host, step_us=host.step_us / 2, row_us=host.row_us / 2)
        quick = replace(found, step_time=MeasuredStepTime(found.step_time.operators, half))
        yield (
            "half the host's time",
            TrialHere(
                replace(trial.way, found=quick), trial.setting, trial.profile, trial.held, self._variants
            ),
        )


def _others(way: Served) -> Iterator[tuple[str, str, str]]:
    """(flag, weights, cache): one thing changed that changes what is computed."""
    options = way.options
    for cache in _CACHES:
        if cache != options.kv_cache_dtype and (cache != "auto" or options.kv_cache_dtype == "fp8"):
            yield f"--kv-cache-dtype {cache}", options.weights, cache
    same = {STORED, "fp8_block" if way.found.config.quantised else "bf16"}
    for weights in RECIPES:
        if weights != options.weights and not {weights, options.weights} <= same and weights != STORED:
            yield f"--weights {weights}", weights, options.kv_cache_dtype


def memory_here(way: Served, setting: Setting, chunk: int, longest: int, free_bytes: int) -> Memory:
    """Of ``free_bytes``, as the server takes them unless told otherwise: weights as packed, and of the rest
    the share that it gives to its cache. CapacityError where that does not hold a request of ``longest``."""
    found, options = way.found, way.options
    weights, token = sum(found.weights.values()), found.token_bytes
    left = max(0.0, free_bytes - weights)
    pages = int(left * CACHE_SHARE / (token * options.page_size))
    if options.kv_gb:
        pages = int(min(left, options.kv_gb * 2**30) / (token * options.page_size))
    tokens = pages * options.page_size
    if tokens < longest:
        raise CapacityError(
            f"{options.weights} weights take {weights / 1e9:.1f} GB of {free_bytes / 1e9:.1f} GB free memory "
            f"and leave {tokens} tokens of cache, but a request needs {longest} "
            "(free some, or convert with --weights int8 or int4)"
        )
    total = setting.server.device.memory_bytes.value
    workspace, cache = activation_bytes(setting, chunk), float(tokens * token)
    used = min(1.0, (weights + workspace + cache) / total)
    return Memory(total, used, found.weights, workspace, cache, float(token), tokens)
