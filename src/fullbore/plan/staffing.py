"""How many people a server carries inside its limits, and how many servers some people need.

The population is that of ``people.py``; the rate with n in flight is the simulated one. A server admits as
many requests as its limits allow; one more waits until others have ended, first come, first served.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from fullbore.errors import UsageError
from fullbore.plan.demand import Demand
from fullbore.plan.people import HOUR_S, MOST_PEOPLE, Habits, crowd
from fullbore.plan.trial import Trial

INSIDE = 0.95  # share of the requests that a company is sized for, where the user says nothing


@dataclass(frozen=True)
class Service:
    """rates: requests finished a second with 1, 2, ... admitted. slack_s: what a request may wait for its
    admission and still get its first token in time."""

    rates: Sequence[float]
    slack_s: float

    @property
    def slots(self) -> int:
        """Requests that are admitted at once."""
        return len(self.rates)

    def rate(self, in_flight: int) -> float:
        """Requests a second; waiting ones add nothing."""
        return self.rates[min(in_flight, self.slots) - 1]


@dataclass(frozen=True)
class Staffed:
    """A company on one server in its busy hour. waits: share of requests that find every slot taken.
    inside: share of requests inside the limits."""

    people: int
    active: int
    in_flight: float
    response_s: float
    requests_hour: float
    waits: float
    inside: float


def service(trial: Trial, demand: Demand, slots: int) -> Service:
    """Rates between simulated counts are interpolated. UsageError where not one request keeps the limits."""
    if slots < 1:
        raise UsageError(f"{demand.name}: no request is inside the limits, so no number of people is")
    counts = sorted({min(slots, 2**power) for power in range(slots.bit_length() + 1)})
    seen = [trial.at(demand, count) for count in counts]
    rates = [_between(counts, [each.requests_s for each in seen], count) for count in range(1, slots + 1)]
    return Service(rates, max(0.0, demand.limits.ttft_ms - seen[-1].ttft_ms) / 1e3)


def staffed(people: int, habits: Habits, offered: Service) -> Staffed:
    """``people`` who share one server."""
    active = habits.active(people)
    found = crowd(active, habits.think_s, offered.rate)
    return Staffed(
        people,
        active,
        found.in_flight,
        found.response_s,
        found.requests_s * HOUR_S,
        found.beyond(offered.slots),
        _inside(found.seen, offered),
    )


def most_people(habits: Habits, offered: Service, inside: float = INSIDE) -> int:
    """The largest company of whose requests a share of ``inside`` is inside the limits."""
    if not 0 < inside < 1:
        raise UsageError(f"a share of {inside} of the requests inside the limits; expected between 0 and 1")

    def carried(people: int) -> bool:
        return staffed(people, habits, offered).inside >= inside

    low, high = 1, 2  # one person never waits for another
    while high <= MOST_PEOPLE and carried(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if carried(middle) else (low, middle)
    return low


def servers_for(people: int, habits: Habits, offered: Service, inside: float = INSIDE) -> int:
    """The fewest servers, among which ``people`` are divided evenly and for good."""
    if people < 1:
        raise UsageError(f"{people} people; expected at least 1")
    return -(-people // most_people(habits, offered, inside))


def _inside(seen: Sequence[float], offered: Service) -> float:
    """A request that finds j in flight, slots or more, waits for j - slots + 1 to end. With exponential times
    between ends that is an Erlang time, and within the slack if a Poisson count reaches that number."""
    slots = offered.slots
    prompt = math.fsum(seen[:slots])
    ends = offered.rate(slots) * offered.slack_s
    chance = below = math.exp(-ends)  # of 0 ends; of fewer than 1
    late = 0.0
    for number, found in enumerate(seen[slots:], 1):
        late += found * (1 - below)
        chance *= ends / number
        below += chance
    return min(1.0, prompt + late)


def _between(counts: Sequence[int], rates: Sequence[float], count: int) -> float:
    above = bisect_left(counts, count)
    if counts[above] == count:
        return rates[above]
    low, high = counts[above - 1], counts[above]
    return rates[above - 1] + (rates[above] - rates[above - 1]) * (count - low) / (high - low)
