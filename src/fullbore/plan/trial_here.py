"""A way to serve a model on this machine, by measured step times.

Limits are sought in counts, where a closed loop takes milliseconds; what is told of the chosen way comes
from the scheduler that serves, in virtual time.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fullbore.engine.options import EngineOptions
from fullbore.engine.step import Step as Planned
from fullbore.plan.closed_loop import Load, Outcome
from fullbore.plan.composition import composition
from fullbore.plan.demand import Demand
from fullbore.plan.here import Here
from fullbore.plan.memory import Memory
from fullbore.plan.simulator import Server, simulate
from fullbore.plan.trial import Reached, Sized, Trial
from fullbore.scenario.prompt import Request, Segment, Session
from fullbore.steptime.factors import Deviation
from fullbore.steptime.measured import MeasuredStepTime
from fullbore.steptime.model import Setting
from fullbore.steptime.profiles import Engine
from fullbore.steptime.step import Z80, Step

REQUESTS_PER_SLOT = 4  # as fullbore bench has them
MOST_TOKENS = 2_000_000  # answered in one run of the scheduler: some seconds
FEWEST_PER_SLOT = 2  # below that ramp and drain are all there is

Variants = Callable[["TrialHere"], "Iterator[tuple[str, Trial]]"]


@dataclass(frozen=True)
class Served:
    """``options``: what the server is started with, but for the sizes that a plan chooses. ``request_s``: of
    a request in the HTTP process."""

    options: EngineOptions
    found: Here
    request_s: float = 0.0


class TrialHere(Trial):
    """``variants``: other ways that are known well enough to say what they would change."""

    requests_per_slot = REQUESTS_PER_SLOT

    def __init__(
        self, way: Served, setting: Setting, profile: Engine, held: Memory, variants: Variants
    ) -> None:
        super().__init__(setting, profile, held)
        self.way, self._variants = way, variants

    def __str__(self) -> str:
        setting, policy = self.setting, self.profile.policy
        return (
            f"{setting.recipe.name} weights, {setting.cache} KV, steps of {policy.chunk_tokens} tokens and "
            f"{policy.most_running} requests at most"
        )

    @property
    def request_s(self) -> float:
        return self.way.request_s

    @property
    def model(self) -> MeasuredStepTime:
        return self.way.found.step_time

    def flags(self, model: str = "") -> str:
        options, policy = self.way.options, self.profile.policy
        return (
            f"--model {model or options.model} --weights {options.weights} --kv {options.kv_cache_dtype} "
            f"--chunk {policy.chunk_tokens} --running {policy.most_running}"
        )

    def with_policy(self, chunk_tokens: int, most_running: int) -> "TrialHere":
        policy = replace(self.profile.policy, chunk_tokens=chunk_tokens, most_running=most_running)
        return TrialHere(
            self.way, self.setting, replace(self.profile, policy=policy), self.held, self._variants
        )

    def changes(self, demand: Demand, limit: int) -> Iterator[tuple[str, Trial]]:
        return self._variants(self)

    def by_scheduler(
        self, demand: Demand, concurrency: int, requests_per_slot: int = REQUESTS_PER_SLOT
    ) -> Reached | None:
        """The same as ``at`` by the scheduler itself, which ``at`` tells from then on; None where that
        would take too long. Fewer requests a slot are run where that helps."""
        most = MOST_TOKENS // (concurrency * demand.output_tokens)
        if most < FEWEST_PER_SLOT:
            return None
        load = demand.load(concurrency, min(requests_per_slot, most))
        found = self._told(demand, load, self._scheduled(load))
        self._reached[demand, concurrency] = found
        return found

    def _scheduled(self, load: Load) -> Outcome:
        policy, model, options = self.profile.policy, self.model, self.way.options
        counts: list[Step] = []

        def step_s(planned: Planned) -> float:
            counts.append(composition(planned))
            return model.seconds(counts[-1])

        server = Server(
            pages=self.held.cache_tokens // options.page_size,
            page_size=options.page_size,
            max_num_seqs=policy.most_running,
            max_num_batched_tokens=policy.chunk_tokens,
            max_queued=load.requests,
            max_model_len=self.setting.config.max_position_embeddings,
            prefix_caching=False,  # no two prompts share anything
            host_s=self.request_s,
        )
        run = simulate(_sessions(load), server, step_s, load.concurrency)
        rows = sum(step.decodes for step in counts)
        return Outcome(
            ttft_s=tuple(record.ttft_s for record in run.records),
            tpot_s=tuple(record.tpot_s or 0.0 for record in run.records),
            duration_s=max(record.ended_s for record in run.records),
            input_tokens=sum(record.input_tokens for record in run.records),
            output_tokens=sum(record.output_tokens for record in run.records),
            decodes=rows / max(1, sum(step.decodes > 0 for step in counts)),
            context=sum(step.context for step in counts) / max(1, rows),
            prefill_share=0.0,
        )

    def deviation(self, load: Sized, decodes: float, context: float) -> Deviation:
        """Of a step of decodes, and of one with as many prompts as are usual."""
        rows = max(1, round(decodes))
        chunk = min(load.input_tokens, self.profile.policy.chunk_tokens)
        step = Step(rows, rows * context, 0, 0.0, rows)
        return Deviation(self._wide(step), self._wide(Step.of([], [(chunk, 0)])))

    def _wide(self, step: Step) -> float:
        time_s = self.model.of(step).time_s
        return math.log(time_s.p90 / time_s.mean) / Z80


def _sessions(load: Load) -> Iterator[Session]:
    for number, (prompt, answer) in enumerate(load.lengths()):
        yield Session(number, (Request(number, (Segment(f"p{number}", prompt),), answer),))


def settled(trial: TrialHere, demand: Demand) -> int:
    """The most in flight that keep the limits by the scheduler itself, from the limit in counts downwards;
    the latter where the scheduler's run would take too long."""
    limit = trial.limit(demand)
    while limit > 0:
        seen = trial.by_scheduler(demand, limit)
        if seen is None or seen.strain(demand) <= 1:
            break
        over = max(seen.tpot_ms / demand.limits.tpot_ms, seen.ttft_ms / demand.limits.ttft_ms)
        limit = min(limit - 1, int(limit / over))
    trial.settle(demand, limit)
    return limit
