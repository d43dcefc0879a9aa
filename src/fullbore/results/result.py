"""What was found at one point: asked, measured or simulated, of whom and by whom.

Runs of the client, simulations, results read from files and those of other tools are all the same ``Result``,
so one table, one comparison and one page show them together.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fullbore import __version__
from fullbore.results.emulated import server_figures, server_timeline
from fullbore.results.identity import Machine, Server, Simulation
from fullbore.scenario.histogram import Histogram
from fullbore.scenario.metrics import Figures, Record, Spread, figures, gaps
from fullbore.scenario.samples import Certainty, certainty
from fullbore.scenario.scenario import Limits, Scenario
from fullbore.scenario.timeline import Timeline, timeline

OURS = f"fullbore bench {__version__}"
# The figures that results are compared by.
TITLES = {"output_tok_s": "output tok/s", "ttft_ms": "TTFT ms", "tpot_ms": "TPOT ms"}
Z80 = 1.2815515655446004  # the normal quantile that leaves a tenth above it


@dataclass(frozen=True)
class Asked:
    """A scenario, as far as a report needs it."""

    name: str
    summary: str  # ``dialog at scale 1/8: 16 tokens in, 128 out``
    limits: Limits | None = None  # None: the tool that measured knew of none
    settings: Mapping[str, Any] = field(default_factory=dict)  # all of it, as its file says

    @classmethod
    def of(cls, scenario: Scenario) -> "Asked":
        return cls(scenario.name, scenario.describe(), scenario.limits, scenario.as_dict())


@dataclass(frozen=True)
class Result:
    """One scenario at one load: ``concurrency`` is known of a closed loop and ``rate_s`` of an open one.

    Of a server of which one data-parallel group is emulated, all figures but ``records`` are the server's.
    """

    scenario: Asked
    concurrency: int | None
    rate_s: float | None  # conversations that begin each second
    server: Server
    client: Machine  # of a simulation: where it was computed
    figures: Figures
    certainty: Certainty
    timeline: Timeline | None
    itl: Histogram | None
    records: tuple[Record, ...]  # of a file: with the first and the last of their chunks only
    lag_ms: Spread | None = None
    late_ms: Spread | None = None  # how much later than due requests were sent (open loop)
    prompts: str = ""  # what they were made of
    processes: int = 1
    ended_early: str = ""  # why not every request was sent
    failed: bool = False  # it ended early by a fault of the server or of a client process
    tool: str = OURS
    simulated: Simulation | None = None  # None: it was measured
    remarks: tuple[str, ...] = ()  # where the tool's definitions are not ours
    source: str = ""  # the file that it was read from

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        concurrency: int | None,
        records: Iterable[Record],
        server: Server,
        **others: Any,
    ) -> "Result":
        """Figures and all that is drawn, from ``records``. ``others``: more fields of a result."""
        kept = tuple(records)
        found = server_figures(figures(kept, concurrency, scenario.limits), server.groups)
        steps = server_timeline(timeline(kept), server.groups)
        if (rate_s := others.get("rate_s")) is not None:
            others["rate_s"] = rate_s * server.groups
        return cls(
            scenario=Asked.of(scenario),
            concurrency=None if concurrency is None else concurrency * server.groups,
            server=server,
            figures=found,
            certainty=certainty(kept, found.steady, steps),
            timeline=steps,
            itl=Histogram.of(gap_s * 1e3 for each in kept if each.ok for gap_s in gaps(each.chunks_s)),
            records=kept,
            **others,
        )

    @property
    def point(self) -> str:
        """``16 in flight``, ``2.5 a second``, or both where an open loop was capped."""
        rate = "" if self.rate_s is None else f"{self.rate_s:g} a second"
        held = "" if self.concurrency is None else f"{self.concurrency} in flight"
        return ", at most ".join(part for part in (rate, held) if part) or "all at once"

    @property
    def keeps_limits(self) -> bool | None:
        """None where no limits were given."""
        return None if self.scenario.limits is None else self.figures.keeps(self.scenario.limits)

    def value(self, name: str) -> float | None:
        """One of TITLES, a mean over the requests or the run's rate."""
        found = getattr(self.figures, name)
        return found.mean if isinstance(found, Spread) else found

    def model_range(self, name: str) -> tuple[float, float] | None:
        """Where 80 of 100 truths lie by the model's own account; None for what was measured."""
        value = self.value(name)
        if self.simulated is None or value is None or name not in self.simulated.deviation:
            return None
        wide = math.exp(Z80 * self.simulated.deviation[name])
        return value / wide, value * wide
