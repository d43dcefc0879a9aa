"""How many people a server carries: a finite population that asks, reads, thinks and asks again.

The machine-repairman model (the finite-source queue of Gross and Harris, Fundamentals of Queueing Theory,
chapter on Markovian queues) with service that depends on the state: with n requests in flight the server
finishes ``rate(n)`` a second, a figure that a simulation or a measurement gives. Times to think are taken as
exponential; only their mean matters where service depends on the number in flight alone (processor sharing).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fullbore.errors import UsageError

Rate = Callable[[int], float]  # requests finished per second with so many in flight
HOUR_S = 3600.0
MOST_PEOPLE = 10_000_000


@dataclass(frozen=True)
class Habits:
    """Of the people of a company. ``active_share``: how many of them use the server in its busy hour;
    ``requests_hour``: what one of those asks in it, were answers immediate."""

    active_share: float
    requests_hour: float

    def __post_init__(self) -> None:
        if not 0 < self.active_share <= 1:
            raise UsageError(f"a share of {self.active_share} active people; expected above 0 and up to 1")
        if not 0 < self.requests_hour < math.inf:
            raise UsageError(f"{self.requests_hour} requests an hour; expected a number above 0")

    @property
    def think_s(self) -> float:
        """Mean time from an answer to the next question."""
        return HOUR_S / self.requests_hour

    def active(self, people: int) -> int:
        """Those of ``people`` who are there at the same time."""
        return math.ceil(people * self.active_share - 1e-9)


@dataclass(frozen=True)
class Crowd:
    """A population in its steady state.

    chances: of 0, 1, ... requests in flight, at any moment. seen: the same as a new request finds it,
    without itself (the arrival theorem: as with one person less).
    """

    population: int
    chances: Sequence[float]
    seen: Sequence[float]
    requests_s: float
    response_s: float

    @property
    def in_flight(self) -> float:
        """Requests in flight, on average."""
        return math.fsum(count * chance for count, chance in enumerate(self.chances))

    def beyond(self, most: int) -> float:
        """The share of requests that make more than ``most`` be in flight, themselves included."""
        return math.fsum(self.seen[most:]) if most < len(self.seen) else 0.0


def crowd(population: int, think_s: float, rate: Rate) -> Crowd:
    """``population`` people who ask ``think_s`` seconds after each answer, on average.

    Raises UsageError for a population below 1, and for a rate that is not above 0.
    """
    if not 1 <= population <= MOST_PEOPLE:
        raise UsageError(f"a population of {population}; expected 1 to {MOST_PEOPLE}")
    chances = _chances(population, think_s, rate)
    requests_s = math.fsum(chance * rate(count) for count, chance in enumerate(chances) if count)
    in_flight = math.fsum(count * chance for count, chance in enumerate(chances))
    seen = _chances(population - 1, think_s, rate)
    return Crowd(population, chances, seen, requests_s, in_flight / requests_s)


def most_people(habits: Habits, rate: Rate, most_in_flight: int, inside: float) -> int:
    """The largest company of which a share of ``inside`` of all requests finds at most ``most_in_flight`` in
    flight, itself included; 0 when that holds for nobody."""
    if not 0 < inside < 1:
        raise UsageError(f"a share of {inside} of the requests inside the limits; expected between 0 and 1")

    def carried(people: int) -> bool:
        found = crowd(habits.active(people), habits.think_s, rate)
        return found.beyond(most_in_flight) <= 1 - inside

    low, high = 0, 1
    while high <= MOST_PEOPLE and carried(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if carried(middle) else (low, middle)
    return low


def _chances(population: int, think_s: float, rate: Rate) -> list[float]:
    """Of n = 0 .. population requests in flight: p(n) = p(n-1) (population - n + 1) / (think_s rate(n)).

    In logarithms, since the terms of a company of thousands exceed any float; states that are less likely
    than 1e-30 of the likeliest are left out at the end.
    """
    logs = [0.0]
    top = 0.0
    for count in range(1, population + 1):
        served = rate(count)
        if not served > 0:
            raise UsageError(f"{served} requests are finished a second with {count} in flight; expected some")
        logs.append(logs[-1] + math.log((population - count + 1) / (think_s * served)))
        top = max(top, logs[-1])
        if logs[-1] < top - 70 and population - count < think_s * served:
            break  # from here on it only falls, as long as the rate does not
    weights = [math.exp(each - top) for each in logs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
