"""The answer to "what will this server carry?": everything that is printed, in one value."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fullbore.plan.advice import Advice, advise
from fullbore.plan.demand import Demand
from fullbore.plan.launch import Launch, launch
from fullbore.plan.people import Habits
from fullbore.plan.search import Found, Ranked, Spot, front, why_lost
from fullbore.plan.staffing import Staffed, most_people, servers_for, service, staffed
from fullbore.plan.trial import Best, Reached, Trial
from fullbore.steptime.step import Interval

_PEAK_CONCURRENCIES = (16, 32, 64, 128, 256, 512, 1024)
UNMEASURED = (
    "no published row has data-parallel attention or whole experts: of this layout the model knows the "
    "mechanism and no measurement"
)


@dataclass(frozen=True)
class People:
    """most: people of these habits that one server carries. asked: what the user's company sees, and how
    many servers it needs, where there is one."""

    habits: Habits
    most: int
    asked: Staffed | None = None
    servers: int | None = None


@dataclass(frozen=True)
class Part:
    """Of one demand, for the chosen way."""

    demand: Demand
    best: Best
    reached: Reached
    advice: Advice
    people: tuple[People, ...]
    front: tuple[Spot, ...]


@dataclass(frozen=True)
class Loser:
    """A way that was not chosen."""

    way: Ranked
    why: str


@dataclass(frozen=True)
class Answer:
    """``peak``: the most total tokens a second of the peak scenario, whatever its limits."""

    found: Found
    parts: tuple[Part, ...]
    losers: tuple[Loser, ...]
    peak: Reached
    inside: float
    launches: tuple[Launch, ...]
    notes: tuple[str, ...]

    @property
    def trial(self) -> Trial:
        """The chosen way."""
        return self.found.best.trial


@dataclass(frozen=True)
class Company:
    """people: None where only what a server carries is asked. inside: share of requests inside the limits."""

    habits: Sequence[Habits]
    people: int | None
    inside: float


def answer(found: Found, peak: Demand, company: Company, engines: Sequence[str]) -> Answer:
    """Everything about the winner of ``found``, and why others lost."""
    best = found.best
    trial, layout = best.trial, best.trial.setting.layout
    parts = tuple(
        _part(found, demand, limit, company) for demand, limit in zip(found.demands, best.limits, strict=True)
    )
    notes = [*trial.profile.notes]
    if layout.dp > 1 or layout.ep > 1:
        notes.append(UNMEASURED)
    if max(best.limits) >= trial.profile.policy.most_running:
        notes.append(f"the scheduler's limit of {trial.profile.policy.most_running} running binds: --running")
    running = max(best.limits)
    return Answer(
        found,
        parts,
        tuple(Loser(each, why_lost(best, each, found.demands)) for each in found.ranked[1:]),
        max((trial.at(peak, count) for count in _PEAK_CONCURRENCIES), key=lambda seen: seen.total_tok_s),
        company.inside,
        tuple(launch(engine, trial, running) for engine in engines),
        tuple(notes),
    )


def _part(found: Found, demand: Demand, limit: int, company: Company) -> Part:
    trial = found.best.trial
    offered = service(trial, demand, limit)

    def people(habits: Habits) -> People:
        most = most_people(habits, offered, company.inside)
        if company.people is None:
            return People(habits, most)
        servers = servers_for(company.people, habits, offered, company.inside)
        return People(habits, most, staffed(-(-company.people // servers), habits, offered), servers)

    return Part(
        demand,
        trial.best(demand),
        trial.at(demand, limit),
        advise(trial, demand, limit),
        tuple(people(habits) for habits in company.habits),
        tuple(front(found, demand)),
    )


def as_json(found: Answer) -> dict[str, object]:
    """One object for scripts; units are in the names."""
    trial = found.trial
    return {
        "schema": "fullbore.plan/1",
        "server": trial.setting.server.name,
        "engine": trial.profile.engine,
        "chosen": _way(trial),
        "scenarios": [_part_json(part) for part in found.parts],
        "peak": reached_json(found.peak),
        "ways_tried": found.found.tried,
        "ways_outdone": found.found.outdone,
        "ways_without_memory": len(found.found.unfit),
        "others": [
            {**_way(each.way.trial), "limits": list(each.way.limits), "why_not": each.why}
            for each in found.losers
        ],
        "requests_inside": found.inside,
        "commands": [asdict(each) for each in found.launches],
        "profile": {"basis": trial.profile.basis, "rests_on": trial.profile.rests_on},
        "notes": list(found.notes),
    }


def _way(trial: Trial) -> dict[str, object]:
    setting, policy = trial.setting, trial.profile.policy
    return {
        "layout": str(setting.layout),
        "weights": setting.recipe.name,
        "kv": setting.cache,
        "mtp": setting.drafts,
        "chunk_tokens": policy.chunk_tokens,
        "most_running": policy.most_running,
        "cache_tokens": trial.held.cache_tokens,
        "used_share": trial.held.used_share,
    }


def reached_json(seen: Reached) -> dict[str, object]:
    """The figures with their intervals."""
    step, first = seen.deviation
    rate = seen.rate_deviation
    return {
        "concurrency": seen.concurrency,
        "tpot_ms": Interval.spread(seen.tpot_ms, step).as_dict(),
        "ttft_ms": Interval.spread(seen.ttft_ms, first).as_dict(),
        "output_tok_s": Interval.spread(seen.output_tok_s, rate).as_dict(),
        "total_tok_s": Interval.spread(seen.total_tok_s, rate).as_dict(),
        "requests_s": Interval.spread(seen.requests_s, rate).as_dict(),
    }


def _part_json(part: Part) -> dict[str, object]:
    advice = part.advice
    return {
        "scenario": asdict(part.demand),
        "best_concurrency": asdict(part.best),
        **reached_json(part.reached),
        "limited_by": advice.limited_by,
        "tpot_parts_ms": dict(advice.parts_ms),
        "floor_ms": advice.floor_ms,
        "headroom": dict(advice.headroom),
        "changes": [asdict(change) for change in advice.changes],
        "people": [asdict(people) for people in part.people],
        "front": [
            {
                **_way(spot.trial),
                "concurrency": spot.concurrency,
                "tpot_ms": spot.tpot_ms,
                "ttft_ms": spot.ttft_ms,
                "output_tok_s": spot.output_tok_s,
            }
            for spot in part.front
        ],
    }
