"""A load that just ran, as a result."""

from collections.abc import Mapping
from typing import Any

from fullbore.bench.client import Target
from fullbore.bench.identity import server_of
from fullbore.bench.load import Load
from fullbore.results.identity import Machine
from fullbore.results.result import Result
from fullbore.scenario.scenario import Scenario


def result_of(
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
) -> Result:
    """``told``: what ``identity.ask`` brought; ``machine``: the client's, as it was before the load."""
    return Result.of(
        scenario,
        concurrency,
        load.records,
        server_of(target, told),
        client=machine or Machine.here(),
        rate_s=rate_s,
        lag_ms=load.lag_ms,
        late_ms=load.late_ms,
        prompts=prompts or target.material.name,
        processes=processes,
        ended_early=load.ended_early,
        failed=load.failed,
    )
