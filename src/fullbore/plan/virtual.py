"""A server that exists as a model: asked like one that is measured, it gives the same kind of result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from fullbore import __version__
from fullbore.errors import UsageError
from fullbore.plan.arguments import Way
from fullbore.plan.composition import composition
from fullbore.plan.counted import counted
from fullbore.plan.memory import MOST_CHUNK, Memory, check_memory
from fullbore.plan.point import accepted_tokens
from fullbore.plan.simulator import Server as Served
from fullbore.plan.simulator import simulate
from fullbore.results.identity import Machine, Server, Simulation
from fullbore.results.result import Result
from fullbore.scenario.arrival import Arrival, ClosedLoop, OpenLoop
from fullbore.scenario.metrics import Figures, Record
from fullbore.scenario.prompt import Session
from fullbore.scenario.protocol import stream_of, usual_count
from fullbore.scenario.scenario import Scenario
from fullbore.steptime.factors import Deviation
from fullbore.steptime.model import StepTime
from fullbore.steptime.version import model_version

TOOL = f"fullbore plan simulate {__version__}"
PAGE_SIZE = 16  # tokens, as `fullbore serve` has


@dataclass(frozen=True)
class VirtualServer:
    """``scenario`` on ``way``.

    model: its name. served: by the scheduler of ``fullbore serve``, else by the engine's rules in counts.
    seconds: no request is sent after them; 0: no end.
    """

    way: Way
    model: str
    scenario: Scenario
    served: bool
    seconds: float = 0.0

    def __post_init__(self) -> None:
        setting, scenario = self.way.setting, self.scenario
        most = setting.config.max_position_embeddings
        if scenario.most_tokens > most:
            fitting = Fraction(most, scenario.most_tokens) * scenario.scale
            raise UsageError(
                f"{scenario.describe()} is up to {scenario.most_tokens} tokens, but {self.model} takes at "
                f"most {most}; use for instance --scale 1/{math.ceil(1 / fitting)}"
            )
        if self.served and setting.drafts:
            raise UsageError(
                f"--mtp {setting.drafts}: the scheduler of fullbore serve drafts nothing yet; leave it out, "
                "or name another engine and --scheduler engine"
            )

    @cached_property
    def held(self) -> Memory:
        """CapacityError where one request does not fit."""
        chunk = min(self.way.profile.policy.chunk_tokens, MOST_CHUNK)
        return check_memory(self.way.setting, self.way.used_share, self.scenario.most_tokens, chunk)

    @cached_property
    def step_time(self) -> StepTime:
        policy = self.way.profile.policy
        return StepTime(self.way.setting, self.way.profile.factors, captured=policy.captured)

    def run(self, arrival: Arrival, number: int = 0, requests: int = 0) -> Result:
        """One load, the ``number``-th of a command. requests: conversations; 0: as many as a bench has."""
        scenario = replace(self.scenario, arrival=arrival)
        sessions = list(scenario.sessions(stream_of(arrival, number), requests or usual_count(scenario)))
        records = self._served(scenario, sessions) if self.served else self._counted(arrival, sessions)
        result = Result.of(
            scenario,
            scenario.concurrency,
            records,
            self._named(),
            client=Machine(fullbore=__version__),
            rate_s=arrival.rate_s if isinstance(arrival, OpenLoop) else None,
            prompts="token counts",
            ended_early=self._ended_early(records, sessions),
            tool=TOOL,
            remarks=tuple(self._remarks(scenario)),
        )
        return replace(result, simulated=self._rests_on(result.figures))

    def _served(self, scenario: Scenario, sessions: Sequence[Session]) -> tuple[Record, ...]:
        policy, arrival = self.way.profile.policy, scenario.arrival
        server = Served(
            pages=max(1, self.held.cache_tokens // PAGE_SIZE),
            page_size=PAGE_SIZE,
            max_num_seqs=policy.most_running,
            max_num_batched_tokens=policy.chunk_tokens,
            max_model_len=self.way.setting.config.max_position_embeddings,
            host_s=self.way.profile.factors.request_ms / 1e3,
        )
        seconds = self.step_time.seconds
        return simulate(
            sessions,
            server,
            lambda step: seconds(composition(step)),
            scenario.concurrency or 0,
            arrival.ramp_s if isinstance(arrival, ClosedLoop) else 0.0,
            self.seconds or math.inf,
        ).records

    def _counted(self, arrival: Arrival, sessions: Sequence[Session]) -> tuple[Record, ...]:
        if not isinstance(arrival, ClosedLoop) or arrival.ramp_s or self.seconds:
            raise UsageError(
                f"the rules of {self.way.profile.title} are known for a closed loop that begins at once and "
                "runs to its end; for --rate, --ramp, --seconds and traces use --scheduler fullbore"
            )
        if self.scenario.prompts.shared_tokens:
            raise UsageError(
                f"scenario {self.scenario.name} shares prompts, and the planner knows no rules of other "
                "engines' prefix caches; use --scheduler fullbore"
            )
        return counted(
            sessions,
            arrival.concurrency,
            self.way.profile.policy,
            self.step_time.seconds,
            self.way.profile.factors.request_ms / 1e3,
            accepted_tokens(self.way.setting.drafts, self.way.acceptance),
            self.held.cache_tokens,
        )

    def _ended_early(self, records: Sequence[Record], sessions: Sequence[Session]) -> str:
        asked = sum(len(session.requests) for session in sessions)
        cut = self.seconds and len(records) < asked
        return f"no request was sent after {self.seconds:g} s" if cut else ""

    def _remarks(self, scenario: Scenario) -> list[str]:
        told = list(self.way.profile.notes)
        if self.served and self.way.setting.layout.dp > 1:
            told.append(f"the cache of {self.way.setting.layout.dp} groups is simulated as one")
        if scenario.concurrency is None:
            told.append("in an open loop the model's ranges leave out how waiting grows near saturation")
        return told

    def _named(self) -> Server:
        setting, profile, held = self.way.setting, self.way.profile, self.held
        flags = {
            "server": setting.server.name,
            "layout": str(setting.layout),
            "weights": setting.recipe.name,
            "kv": setting.cache,
            "mtp": str(setting.drafts),
            "chunk_tokens": str(profile.policy.chunk_tokens),
            "most_running": str(profile.policy.most_running),
            "memory_fraction": f"{held.used_share:g}",
            "cache_tokens": str(held.cache_tokens),
        }
        return Server(
            model=self.model,
            software=f"simulated {profile.title}",
            version=profile.epoch,
            weights=setting.recipe.name,
            vocab_size=setting.config.vocab_size,
            max_model_len=setting.config.max_position_embeddings,
            flags=flags,
        )

    def _rests_on(self, got: Figures) -> Simulation:
        profile = self.way.profile
        in_flight = got.nominal_concurrency or max(1, round(got.concurrency or 1))
        wide = profile.deviation_at(in_flight, self.scenario.input_tokens)
        return Simulation(
            hardware=f"{self.way.setting.server.name} {self.way.setting.layout}",
            engine=" ".join(filter(None, (profile.title, profile.epoch))),
            scheduler="the scheduler of fullbore serve" if self.served else "its own rules in counts",
            profile=profile.rests_on,
            basis=profile.basis,
            version=model_version(),
            deviation=_deviation(got, wide),
        )


def _deviation(got: Figures, wide: Deviation) -> dict[str, float]:
    """A request's time is TTFT and the rest, whose errors are taken to be independent; of an open loop the
    rate is what was asked."""
    found = {"tpot_ms": wide.step, "ttft_ms": wide.ttft}
    if got.ttft_ms and got.latency_ms and got.nominal_concurrency:
        first, whole = got.ttft_ms.mean, got.latency_ms.mean
        found["output_tok_s"] = math.hypot(first * wide.ttft, (whole - first) * wide.step) / whole
    return found
