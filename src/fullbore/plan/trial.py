"""One way to run the model, tried at any concurrency; and the most that keeps the limits."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from fullbore.plan.closed_loop import run
from fullbore.plan.demand import Demand
from fullbore.plan.memory import Memory
from fullbore.plan.point import accepted_tokens, rate_deviation
from fullbore.scenario.metrics import percentile
from fullbore.steptime.model import Setting, StepTime
from fullbore.steptime.profiles import Profile
from fullbore.steptime.step import Z80, Step

MOST_IN_FLIGHT = 8192  # far above what one server is asked for; it keeps a search with loose limits short


@dataclass(frozen=True)
class Reached:
    """With ``concurrency`` in flight; TPOT and TTFT are the figures that the limits judge."""

    concurrency: int
    tpot_ms: float
    ttft_ms: float
    output_tok_s: float
    total_tok_s: float
    requests_s: float
    deviation: tuple[float, float]  # of the logarithms of TPOT and TTFT
    rate_deviation: float  # of those of the three rates
    decodes: float  # of a step, on average
    context: float  # of each of them

    def strain(self, demand: Demand, doubt: float = 0.0) -> float:
        """TPOT or TTFT over its limit, the larger; for a truth that lies ``doubt`` deviations above."""
        step, first = (math.exp(doubt * wide) for wide in self.deviation)
        limits = demand.limits
        return max(self.tpot_ms * step / limits.tpot_ms, self.ttft_ms * first / limits.ttft_ms)


@dataclass(frozen=True)
class Best:
    """The most in flight inside the limits, 0 for none.

    ``sure`` of them are inside with nine chances of ten, ``hoped`` with one.
    """

    concurrency: int
    sure: int
    hoped: int


class Trial:
    """Keeps what was simulated. ``profile``: with the policy that is tried."""

    def __init__(self, setting: Setting, profile: Profile, held: Memory, acceptance: float = 0.0) -> None:
        self.setting, self.profile, self.held, self.acceptance = setting, profile, held, acceptance
        self._reached: dict[tuple[Demand, int], Reached] = {}
        self._limit: dict[tuple[Demand, float], int] = {}

    @cached_property
    def model(self) -> StepTime:
        """Built once: it remembers the times of token counts."""
        return StepTime(self.setting, self.profile.factors, captured=self.profile.policy.captured)

    @property
    def gained(self) -> float:
        """Tokens of a sequence in a step."""
        return accepted_tokens(self.setting.drafts, self.acceptance)

    def __str__(self) -> str:
        setting = self.setting
        drafts = f", MTP {setting.drafts}" if setting.drafts else ""
        policy = self.profile.policy
        return (
            f"{setting.layout}, {setting.recipe.name} weights, {setting.cache} KV, chunks of "
            f"{policy.chunk_tokens}, {policy.most_running} running{drafts}"
        )

    def at(self, demand: Demand, concurrency: int) -> Reached:
        """What ``demand`` sees with so many in flight."""
        key = demand, concurrency
        if key not in self._reached:
            self._reached[key] = self._simulate(demand, concurrency)
        return self._reached[key]

    def keeps(self, demand: Demand, concurrency: int, doubt: float = 0.0) -> bool:
        """Whether the limits hold there; none in flight keeps any."""
        return concurrency == 0 or self.at(demand, concurrency).strain(demand, doubt) <= 1

    def limit(self, demand: Demand, doubt: float = 0.0) -> int:
        """The most in flight that keep the limits, up to MOST_IN_FLIGHT."""
        key = demand, doubt
        if key not in self._limit:
            # Far more than are admitted at once seldom keep a TTFT, and take long to simulate.
            most = min(self.profile.policy.most_running, self.held.requests(demand.most_tokens))
            start = min(self.decode_limit(demand), most)
            known = [count for asked, count in self._reached if asked == demand]
            self._limit[key] = highest(
                lambda count: self.at(demand, count).strain(demand, doubt), start, known=known
            )
        return self._limit[key]

    def best(self, demand: Demand) -> Best:
        """With the range that the model's deviation gives."""
        return Best(self.limit(demand), self.limit(demand, Z80), self.limit(demand, -Z80))

    def decode_limit(self, demand: Demand) -> int:
        """The most whose step of decodes alone is inside the TPOT: where a search begins, and at least 1."""
        limit_s = demand.limits.tpot_ms / 1e3 * self.gained
        return max(1, highest(lambda count: self.model.seconds(self.step(demand, count)) / limit_s, 64))

    def step(self, demand: Demand, concurrency: int) -> Step:
        """A step in which all of them decode."""
        return Step(concurrency, concurrency * demand.mean_context, 0, 0.0, concurrency)

    def floor_ms(self, demand: Demand, concurrency: int) -> float:
        """Of TPOT: touched weights and cache, once through memory."""
        return self.model.floor_s(self.step(demand, concurrency)) * 1e3 / self.gained

    def _simulate(self, demand: Demand, concurrency: int) -> Reached:
        load, profile = demand.load(concurrency), self.profile
        seen = run(
            load,
            profile.policy,
            self.model.seconds,
            profile.factors.request_ms / 1e3,
            self.gained,
            self.held.cache_tokens,
        )
        wide = profile.deviation_at(concurrency, demand.input_tokens)
        return Reached(
            concurrency,
            figure(seen.tpot_s, demand.limits.percentile) * 1e3,
            figure(seen.ttft_s, demand.limits.percentile) * 1e3,
            seen.output_tokens / seen.duration_s,
            (seen.input_tokens + seen.output_tokens) / seen.duration_s,
            load.requests / seen.duration_s,
            (wide.step, wide.ttft),
            rate_deviation(seen, wide),
            seen.decodes,
            seen.context,
        )

    def with_policy(self, chunk_tokens: int, most_running: int) -> "Trial":
        """The same setting with another scheduler's limits."""
        policy = replace(self.profile.policy, chunk_tokens=chunk_tokens, most_running=most_running)
        found = Trial(self.setting, replace(self.profile, policy=policy), self.held, self.acceptance)
        found.__dict__["model"] = self.model  # the step's time knows no policy
        return found


def figure(values: Sequence[float], name: str) -> float:
    """``mean``, or a percentile such as ``p90``."""
    return fmean(values) if name == "mean" else percentile(sorted(values), float(name[1:]))


def highest(
    strain: Callable[[int], float], start: int, most: int = MOST_IN_FLIGHT, known: Iterable[int] = ()
) -> int:
    """The largest number up to ``most`` whose ``strain`` is at most 1, 0 for none; where it is more once, it
    must not be less again further up.

    Begins at ``start``, then interpolates: strain is smooth mostly, and dear. ``known``: numbers whose strain
    costs nothing.
    """
    low, below, high, above = 0, 0.0, most + 1, math.inf
    guess, free = start, [number for number in sorted(known) if 0 < number <= most]
    while high - low > 1:
        inside = [number for number in free if low < number < high]
        guess = inside[len(inside) // 2] if inside else min(max(guess, low + 1), high - 1)
        before, found, width = (low, below), strain(guess), high - low
        if found <= 1:
            low, below = guess, found
        else:
            high, above = guess, found
        guess = (low + high) // 2
        if high > most:
            guess = _beyond(before, (low, below))
        elif not low:
            guess = high - 1 - int(high * min(0.5, 1.5 * math.log(above)))
        elif below and 2 * (high - low) <= width:
            guess = low + int((high - low) * math.log(1 / below) / math.log(above / below))
    return low


def _beyond(before: tuple[int, float], last: tuple[int, float]) -> int:
    """Where strain may be above 1, by two (number, strain) below it.

    Not far at first, as it may jump there (a start is often the most that run at once); then as its slope
    says and half as far again, up to twice the last.
    """
    (first, less), (number, strain) = before, last
    if not first:
        return number + 1 + number // 32
    if not 0 < less < strain < 1:
        return 2 * number
    slope = math.log(strain / less) / (number - first)
    return number + 1 + int(min(number, 1.5 * math.log(1 / strain) / slope))
