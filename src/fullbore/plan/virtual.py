"""A server that exists as a model: asked like one that is measured, it gives the same kind of result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fullbore import __version__
from fullbore.errors import UsageError
from fullbore.plan.composition import composition
from fullbore.plan.counted import counted
from fullbore.plan.simulator import Server as Served
from fullbore.plan.simulator import simulate
from fullbore.plan.trial import Trial
from fullbore.results.identity import Machine, Server, Simulation
from fullbore.results.result import Result
from fullbore.scenario.arrival import Arrival, ClosedLoop, OpenLoop
from fullbore.scenario.metrics import Figures, Record
from fullbore.scenario.prompt import Session
from fullbore.scenario.protocol import stream_of, usual_count
from fullbore.scenario.scenario import Scenario
from fullbore.steptime.factors import Deviation
from fullbore.steptime.profiles import Policy
from fullbore.steptime.version import model_version

TOOL = f"fullbore plan simulate {__version__}"
PAGE_SIZE = 16  # tokens, as `fullbore serve` has


@dataclass(frozen=True)
class VirtualServer:
    """``scenario`` on a server that runs as ``trial`` says.

    model: its name. served: by the scheduler of ``fullbore serve``, else by the engine's rules in counts.
    seconds: no request is sent after them; 0: no end. UsageError for what does not go together.
    """

    trial: Trial
    model: str
    scenario: Scenario
    served: bool
    seconds: float = 0.0

    def __post_init__(self) -> None:
        drafts = self.trial.setting.drafts
        if self.served and drafts:
            raise UsageError(
                f"--mtp {drafts}: the scheduler of fullbore serve drafts nothing yet; leave it out, "
                "or name another engine and --scheduler engine"
            )

    @property
    def policy(self) -> Policy:
        """Of all attention groups together."""
        return self.trial.profile.policy.over(self.trial.setting.layout.dp)

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
        policy, arrival = self.policy, scenario.arrival
        server = Served(
            pages=max(1, self.trial.held.cache_tokens // PAGE_SIZE),
            page_size=PAGE_SIZE,
            max_num_seqs=policy.most_running,
            max_num_batched_tokens=policy.chunk_tokens,
            max_model_len=self.trial.setting.config.max_position_embeddings,
            host_s=self.trial.request_s,
        )
        seconds = self.trial.model.seconds
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
                f"the rules of {self.trial.profile.title} are known for a closed loop that begins at once "
                "and runs to its end; for --rate, --ramp, --seconds and traces use --scheduler fullbore"
            )
        if self.scenario.prompts.shared_tokens:
            raise UsageError(
                f"scenario {self.scenario.name} shares prompts, and the planner knows no rules of "
                "other engines' prefix caches; use --scheduler fullbore"
            )
        return counted(
            sessions,
            arrival.concurrency,
            self.policy,
            self.trial.model.seconds,
            self.trial.request_s,
            self.trial.gained,
            self.trial.held.cache_tokens,
        )

    def _ended_early(self, records: Sequence[Record], sessions: Sequence[Session]) -> str:
        asked = sum(len(session.requests) for session in sessions)
        cut = self.seconds and len(records) < asked
        return f"no request was sent after {self.seconds:g} s" if cut else ""

    def _remarks(self, scenario: Scenario) -> list[str]:
        told = list(self.trial.profile.notes)
        if self.served and self.trial.setting.layout.dp > 1:
            told.append(f"the cache of {self.trial.setting.layout.dp} groups is simulated as one")
        if scenario.concurrency is None:
            told.append("in an open loop the model's ranges leave out how waiting grows near saturation")
        return told

    def _named(self) -> Server:
        setting, profile, held = self.trial.setting, self.trial.profile, self.trial.held
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
        profile = self.trial.profile
        in_flight = got.nominal_concurrency or max(1, round(got.concurrency or 1))
        context = self.scenario.input_tokens + self.scenario.history_tokens + self.scenario.output_tokens / 2
        wide = self.trial.deviation(_Size(in_flight, self.scenario.input_tokens), in_flight, context)
        return Simulation(
            hardware=f"{self.trial.setting.server.name}, {self.trial}",
            engine=" ".join(filter(None, (profile.title, profile.epoch))),
            scheduler="the scheduler of fullbore serve" if self.served else "its own rules in counts",
            profile=profile.rests_on,
            basis=profile.basis,
            version=model_version(),
            deviation=_deviation(got, wide),
        )


@dataclass(frozen=True)
class _Size:
    concurrency: int
    input_tokens: int


def _deviation(got: Figures, wide: Deviation) -> dict[str, float]:
    """A request's time is TTFT and the rest, whose errors are taken to be independent; of an open loop the
    rate is what was asked."""
    found = {"tpot_ms": wide.step, "ttft_ms": wide.ttft}
    if got.ttft_ms and got.latency_ms and got.nominal_concurrency:
        first, whole = got.ttft_ms.mean, got.latency_ms.mean
        found["output_tok_s"] = math.hypot(first * wide.ttft, (whole - first) * wide.step) / whole
    return found
