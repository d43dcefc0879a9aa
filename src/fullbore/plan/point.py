"""One operating point: what a server is expected to do at one concurrency, how surely, and why."""

import math
from dataclasses import dataclass
from statistics import fmean

from fullbore.plan.closed_loop import Load, Outcome, run
from fullbore.plan.memory import MOST_CHUNK, Memory, check_memory
from fullbore.steptime.factors import Deviation
from fullbore.steptime.model import Setting, StepTime
from fullbore.steptime.profiles import Profile
from fullbore.steptime.step import Interval, Step, StepCost

WAITING = "waiting for prompts"


@dataclass(frozen=True)
class Point:
    """``step``: the mean decode step. ``stall_ms``: of the TPOT, spent while prompts were computed."""

    setting: Setting
    profile: Profile
    load: Load
    acceptance: float
    memory: Memory
    outcome: Outcome
    tpot_ms: Interval
    ttft_ms: Interval
    output_tok_s: Interval
    total_tok_s: Interval
    step: StepCost
    stall_ms: float
    floor_ms: float  # of the same step: touched weights and the cache, once through memory

    @property
    def limited_by(self) -> str:
        """The largest part of the TPOT."""
        return max(self.parts_ms, key=lambda kind: self.parts_ms[kind])

    @property
    def parts_ms(self) -> dict[str, float]:
        """What the TPOT is the sum of, by kind."""
        gained = accepted_tokens(self.setting.drafts, self.acceptance)
        parts = {kind: seconds * 1e3 / gained for kind, seconds in self.step.terms_s.items()}
        return {**parts, WAITING: self.stall_ms}


def accepted_tokens(drafts: int, acceptance: float) -> float:
    """Tokens gained in a step: the model's own, and drafts up to the first that is refused."""
    return sum(acceptance**place for place in range(drafts + 1))


def predict(
    setting: Setting, profile: Profile, load: Load, acceptance: float = 0.0, used_share: float | None = None
) -> Point:
    """UsageError for a layout that does not fit the server, CapacityError for a model that does not."""
    wide = profile.deviation_at(load.concurrency, load.input_tokens)
    model = StepTime(setting, profile.factors, wide, profile.policy.captured)
    request = load.input_tokens + load.output_tokens
    # Longer chunks are an engine's choice where there is room; they are no reason to refuse a model.
    chunk = min(profile.policy.chunk_tokens, load.input_tokens * load.concurrency, MOST_CHUNK)
    held = check_memory(setting, used_share, request, chunk)
    gained = accepted_tokens(setting.drafts, acceptance)
    seen = run(
        load, profile.policy, model.seconds, profile.factors.request_ms / 1e3, gained, held.cache_tokens
    )
    step = Step(max(1, round(seen.decodes)), seen.decodes * seen.context, 0, 0.0, max(1, round(seen.decodes)))
    cost = model.of(step)
    tpot_ms = fmean(seen.tpot_s) * 1e3
    output_tok_s = seen.output_tokens / seen.duration_s
    return Point(
        setting=setting,
        profile=profile,
        load=load,
        acceptance=acceptance,
        memory=held,
        outcome=seen,
        tpot_ms=Interval.spread(tpot_ms, wide.step),
        ttft_ms=Interval.spread(fmean(seen.ttft_s) * 1e3, wide.ttft),
        output_tok_s=Interval.spread(output_tok_s, rate_deviation(seen, wide)),
        total_tok_s=Interval.spread(
            (seen.output_tokens + seen.input_tokens) / seen.duration_s, rate_deviation(seen, wide)
        ),
        step=cost,
        stall_ms=max(0.0, tpot_ms - cost.time_s.mean * 1e3 / gained),
        floor_ms=model.floor_s(step) * 1e3 / gained,
    )


def rate_deviation(seen: Outcome, wide: Deviation) -> float:
    """A request's time is TTFT and the rest; their errors are taken to be independent."""
    first = fmean(seen.ttft_s)
    rest = fmean(seen.tpot_s) * (seen.output_tokens / len(seen.tpot_s) - 1)
    return math.hypot(first * wide.ttft, rest * wide.step) / (first + rest)


def as_json(point: Point) -> dict[str, object]:
    """One flat object for scripts; units are in the names."""
    setting, profile, held = point.setting, point.profile, point.memory
    return {
        "schema": "fullbore.plan.point/1",
        "server": setting.server.name,
        "engine": profile.engine,
        "layout": str(setting.layout),
        "weights": setting.recipe.name,
        "kv": setting.cache,
        "mtp": setting.drafts,
        "input_tokens": point.load.input_tokens,
        "output_tokens": point.load.output_tokens,
        "length_range": point.load.length_range,
        "concurrency": point.load.concurrency,
        "requests": point.load.requests,
        "tpot_ms": point.tpot_ms.as_dict(),
        "ttft_ms": point.ttft_ms.as_dict(),
        "output_tok_s": point.output_tok_s.as_dict(),
        "total_tok_s": point.total_tok_s.as_dict(),
        "memory": {
            "device_bytes": held.device_bytes,
            "used_share": held.used_share,
            "weight_bytes": held.weight_bytes,
            "weights": {part: size for part, size in held.weights.items() if size},
            "reserve_bytes": held.reserve_bytes,
            "workspace_bytes": held.workspace_bytes,
            "cache_bytes": held.cache_bytes,
            "cache_token_bytes": held.cache_token_bytes,
            "cache_tokens": held.cache_tokens,
            "requests_at_once": held.requests(point.load.input_tokens + point.load.output_tokens),
            "most_requests": {
                str(tokens): count
                for tokens, count in held.largest(setting.config.max_position_embeddings).items()
            },
        },
        "limited_by": point.limited_by,
        "tpot_parts_ms": point.parts_ms,
        "floor_ms": point.floor_ms,
        "decodes": point.outcome.decodes,
        "prefill_share": point.outcome.prefill_share,
        "profile": {
            "engine": profile.title,
            "epoch": profile.epoch or None,
            "basis": profile.basis,
            "rests_on": profile.rests_on,
            "notes": list(profile.notes),
        },
    }
