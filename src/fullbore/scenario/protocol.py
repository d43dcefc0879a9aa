"""How a run asks, unless it is told: how many conversations there are, and which ones."""

import math

from fullbore.scenario.arrival import Arrival, OpenLoop
from fullbore.scenario.scenario import Scenario

FEWEST_REQUESTS = 8
REQUESTS_PER_SLOT = 4
OPEN_LOOP_S = 60.0  # of arrivals


def usual_count(scenario: Scenario) -> int:
    """How many conversations a load has."""
    if scenario.count is not None:
        return scenario.count
    if isinstance(scenario.arrival, OpenLoop):
        return max(FEWEST_REQUESTS, math.ceil(OPEN_LOOP_S * scenario.arrival.rate_s))
    return max(FEWEST_REQUESTS, REQUESTS_PER_SLOT * (scenario.concurrency or 1))


def stream_of(arrival: Arrival, run: int) -> str:
    """Of ``Scenario.sessions``: each of a command's runs, counted from 0, has prompts of its own."""
    return f"{arrival.describe()}, run {run}"
