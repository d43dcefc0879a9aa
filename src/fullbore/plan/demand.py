"""What is asked of a server, as the search sees it: lengths, and the limits that must be kept."""

from dataclasses import dataclass, replace

from fullbore.errors import UsageError
from fullbore.plan.closed_loop import Load
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.lengths import Fixed, Lengths
from fullbore.scenario.scenario import Limits, Scenario

REQUESTS_PER_SLOT = 10  # as in InferenceX; ramp and drain are in every figure


@dataclass(frozen=True)
class Demand:
    """Requests of ``length_range`` times to once these lengths, in a closed loop, inside ``limits``."""

    name: str
    input_tokens: int
    output_tokens: int
    length_range: float
    limits: Limits

    @property
    def most_tokens(self) -> int:
        """Of one request, prompt and answer."""
        return self.input_tokens + self.output_tokens

    @property
    def mean_context(self) -> float:
        """Tokens that a decoding sequence attends to, on average."""
        return (1 + self.length_range) / 2 * (self.input_tokens + self.output_tokens / 2)

    def load(self, concurrency: int, requests_per_slot: int = REQUESTS_PER_SLOT) -> Load:
        """The benchmark that asks for this with so many in flight."""
        requests = requests_per_slot * concurrency
        return Load(self.input_tokens, self.output_tokens, self.length_range, concurrency, requests)


def longest(scenario: Scenario) -> Demand:
    """The longest request of ``scenario``, whatever its arrivals: what memory and context must hold."""
    output_tokens = scenario.output.most
    return Demand(scenario.name, scenario.most_tokens - output_tokens, output_tokens, 1.0, scenario.limits)


def demand_of(
    scenario: Scenario,
    length_range: float = 1.0,
    tpot_ms: float | None = None,
    ttft_ms: float | None = None,
    percentile: str | None = None,
) -> Demand:
    """``scenario`` with what the user says of its limits. UsageError for one that is no closed loop of single
    requests with fixed lengths, whose counts alone are not enough to simulate it."""
    if not isinstance(scenario.arrival, ClosedLoop) or scenario.history_tokens:
        raise UsageError(
            f"scenario {scenario.name}: a plan needs a closed loop of single requests without "
            "shared prompts; expected one such as dialog or code"
        )
    limits = scenario.limits
    return Demand(
        scenario.name,
        _fixed(scenario, "input_tokens", scenario.input, 1),
        _fixed(scenario, "output_tokens", scenario.output, 2),
        length_range,
        replace(
            limits,
            tpot_ms=tpot_ms or limits.tpot_ms,
            ttft_ms=ttft_ms or limits.ttft_ms,
            percentile=percentile or limits.percentile,
        ),
    )


def _fixed(scenario: Scenario, field: str, lengths: Lengths, least: int) -> int:
    if not isinstance(lengths, Fixed) or lengths.tokens < least:
        raise UsageError(
            f"scenario {scenario.name}: {field} is {lengths.describe()}; a plan needs one number of at least "
            f"{least} (and --length-range for lengths below it)"
        )
    return lengths.tokens
