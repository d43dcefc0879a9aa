"""How fast the simulator is: ``python -m benchmarks.simulated [SERVER]``, in CPU time of one core.

Each scenario at its own concurrency on the scheduler that serves, with the step-time model: how many
microseconds a step takes, where they go, and how much faster than the simulated server that is. CPU time
hardly depends on what else a machine does; of several runs in one process the median and the range are told.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from fullbore.engine.messages import Emitted
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Sampled, Step
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.layout import parse_layout
from fullbore.plan.composition import composition
from fullbore.plan.simulator import Server, Simulated, simulate
from fullbore.scenario.scenario import Scenario, load_scenario
from fullbore.screen import console
from fullbore.steptime.model import Setting, StepTime
from fullbore.steptime.network import RECIPES
from fullbore.steptime.profiles import find_profile

SCENARIOS = ("dialog", "code", "peak")
PAGE = 16
PARTS = ("plan", "commit", "step time", "simulator")


@dataclass
class Spent:
    """CPU seconds by part; what the others leave of the whole is the simulator's own."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def watch(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, and its time under ``part``."""
        seconds, clock = self.seconds, time.thread_time

        def timed(*arguments: Any) -> Any:
            begin = clock()
            found = call(*arguments)
            seconds[part] += clock() - begin
            return found

        return timed


class WatchedScheduler(Scheduler):
    """Tells where the time of a step goes."""

    def watched_by(self, spent: Spent) -> "WatchedScheduler":
        self._plan = spent.watch("plan", super().plan)
        self._commit = spent.watch("commit", super().commit_alike)
        return self

    def plan(self) -> Step | None:
        return self._plan()  # type: ignore[no-any-return]

    def commit_alike(self, step: Step, result: Sampled) -> list[Emitted]:
        return self._commit(step, result)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class WatchedServer(Server):
    spent: Spent = field(default_factory=Spent)

    def scheduler(self) -> Scheduler:
        watched = WatchedScheduler(
            self.pages,
            self.page_size,
            self.max_num_seqs,
            self.max_num_batched_tokens,
            self.max_queued,
            self.max_model_len,
            (),
            self.prefix_caching,
        )
        return watched.watched_by(self.spent)


def once(scenario: Scenario, server: Server, step_s: Callable[[Step], float], requests: int) -> Simulated:
    """``requests`` for each place of the scenario's closed loop."""
    places = scenario.concurrency or 1
    return simulate(scenario.sessions("simulated", requests * places), server, step_s, places)


def measure(scenario: Scenario, times: StepTime, chunk: int, requests: int, repeats: int) -> list[str]:
    """The cells of a row."""
    places = scenario.concurrency or 1
    # Room for all of them: what is preempted depends on the cache, not on the simulator.
    pages = 2 * places * -(-scenario.most_tokens // PAGE)
    server = Server(pages, PAGE, places, max(chunk, places))
    watched = WatchedServer(pages, PAGE, places, max(chunk, places))

    def step_s(step: Step) -> float:
        return times.seconds(composition(step))

    once(scenario, server, step_s, 1)  # warm
    us, ratios = [], []
    for _ in range(repeats):
        begin = time.thread_time()
        seen = once(scenario, server, step_s, requests)
        taken_s = time.thread_time() - begin
        us.append(taken_s / seen.steps * 1e6)
        ratios.append(seen.ended_s / taken_s)
    begin = time.thread_time()
    split = once(scenario, watched, watched.spent.watch("step time", step_s), requests)
    spent = watched.spent.seconds
    spent["simulator"] = time.thread_time() - begin - sum(spent.values())
    return [
        f"{scenario.name}, {places}",
        str(seen.steps),
        f"{seen.ended_s / seen.steps * 1e3:.0f}",
        _range(us, ".0f"),
        *(f"{spent[part] / split.steps * 1e6:.0f}" for part in PARTS),
        f"{1e6 / statistics.median(us):,.0f}",
        _range(ratios, ".0f"),
    ]


def _range(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How fast the simulator is.")
    parser.add_argument("server", nargs="?", default="8xMI300X")
    parser.add_argument("--scenario", nargs="*", default=SCENARIOS)
    parser.add_argument("--requests", type=int, default=2, help="for each place (default 2)")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(words)
    server = find_server(args.server)
    profile = find_profile("fullbore", server.device)
    setting = Setting(
        named_config(DEEPSEEK_V3), server, parse_layout(f"tp{server.count}"), RECIPES["fp8"], "fp8"
    )
    times = StepTime(setting, profile.factors)
    table = Table(box=box.SIMPLE_HEAD, title=f"simulated on {server.name}, CPU time of one core")
    table.add_column("scenario, in flight")
    for name in ("steps", "ms a step", "us of CPU a step", *(f"{part} us" for part in PARTS)):
        table.add_column(name, justify="right")
    table.add_column("steps a s", justify="right")
    table.add_column("times real time", justify="right")
    for name in args.scenario:
        row = measure(load_scenario(name), times, profile.policy.chunk_tokens, args.requests, args.repeats)
        table.add_row(*row)
    console(120, 150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
