"""What a benchmark found at one point: asked, measured, of whom and by whom.

Runs of this client, results read from files and those of other tools are all the same ``Result``, so one
table, one comparison and one page show them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fullbore import __version__
from fullbore.bench.client import Target
from fullbore.bench.emulated import server_figures, server_timeline
from fullbore.bench.identity import Machine, Server
from fullbore.bench.load import Load
from fullbore.scenario.histogram import Histogram
from fullbore.scenario.metrics import Figures, Record, Spread, figures, gaps
from fullbore.scenario.samples import Certainty, certainty
from fullbore.scenario.scenario import Limits, Scenario
from fullbore.scenario.timeline import Timeline, timeline

OURS = f"fullbore bench {__version__}"


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
    client: Machine
    figures: Figures
    certainty: Certainty
    timeline: Timeline | None
    itl: Histogram | None
    records: tuple[Record, ...]  # of a file: with the first and the last of their chunks only
    lag_ms: Spread | None
    late_ms: Spread | None = None  # how much later than due requests were sent (open loop)
    prompts: str = ""  # what they were made of
    processes: int = 1
    ended_early: str = ""  # why not every request was sent
    failed: bool = False  # it ended early by a fault of the server or of a client process
    tool: str = OURS
    remarks: tuple[str, ...] = ()  # where the tool's definitions are not ours
    source: str = ""  # the file that it was read from

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        concurrency: int | None,
        target: Target,
        load: Load,
        *,
        rate_s: float | None = None,
        told: Mapping[str, Any] | None = None,
        machine: Machine | None = None,
        prompts: str = "",
        processes: int = 1,
    ) -> "Result":
        """Of a load that just ran. ``told``: what ``identity.ask`` brought; ``machine``: before the load."""
        server = Server.of(target, told)
        found = server_figures(figures(load.records, concurrency, scenario.limits), server.groups)
        steps = server_timeline(timeline(load.records), server.groups)
        return cls(
            scenario=Asked.of(scenario),
            concurrency=None if concurrency is None else concurrency * server.groups,
            rate_s=None if rate_s is None else rate_s * server.groups,
            server=server,
            client=machine or Machine.here(),
            figures=found,
            certainty=certainty(load.records, found.steady, steps),
            timeline=steps,
            itl=Histogram.of(
                gap_s * 1e3 for each in load.records if each.ok for gap_s in gaps(each.chunks_s)
            ),
            records=tuple(load.records),
            lag_ms=load.lag_ms,
            late_ms=load.late_ms,
            prompts=prompts or target.material.name,
            processes=processes,
            ended_early=load.ended_early,
            failed=load.failed,
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
