"""How long a plan takes: ``python -m benchmarks.planning [SERVER]``, in CPU time of one core.

The search over all layouts for dialog and code, one simulation in counts of each, and the real scheduler in
virtual time with 158 in flight, whose speed is told against the time that it simulates.
"""

import sys
import time
from collections.abc import Iterator

from fullbore.engine.step import Step as EngineStep
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.plan.demand import Demand, demand_of
from fullbore.plan.search import search
from fullbore.plan.simulator import Server, simulate
from fullbore.plan.space import Space, layouts_of, trials, usual_recipes
from fullbore.scenario.prompt import Request, Segment, Session
from fullbore.scenario.scenario import load_scenario
from fullbore.steptime.profiles import find_profile

CONCURRENCY, REQUESTS, PAGES = 158, 316, 16_384


def main() -> None:
    server = find_server(sys.argv[1] if len(sys.argv) > 1 else "8xMI300X")
    config, profile = named_config(DEEPSEEK_V3), find_profile("sglang", server.device)
    demands = [demand_of(load_scenario(name)) for name in ("dialog", "code")]
    space = Space(layouts_of(config, server), usual_recipes(server))
    begun_s = time.process_time()
    found = search(trials(config, server, profile, space, demands), demands)
    print(f"search on {server.name}, {found.tried} ways: {time.process_time() - begun_s:.1f} s")
    trial = found.best.trial
    for demand in demands:
        policy = trial.profile.policy
        fresh = trial.with_policy(policy.chunk_tokens, policy.most_running)
        begun_s = time.process_time()
        fresh.at(demand, CONCURRENCY)
        print(f"counts, {demand.name} at {CONCURRENCY}: {(time.process_time() - begun_s) * 1e3:.0f} ms")
    dialog = demands[0]
    tokens_s = trial.model.seconds(trial.step(dialog, CONCURRENCY)) / CONCURRENCY

    def step_s(step: EngineStep) -> float:
        return tokens_s * step.tokens

    begun_s = time.process_time()
    seen = simulate(_sessions(dialog), Server(PAGES, max_num_seqs=CONCURRENCY), step_s, CONCURRENCY)
    taken_s = time.process_time() - begun_s
    print(f"scheduler, dialog at {CONCURRENCY}: {seen.steps} steps, {seen.ended_s / taken_s:.0f}x real time")


def _sessions(demand: Demand) -> Iterator[Session]:
    for number in range(REQUESTS):
        prompt = (Segment(f"p{number}", demand.input_tokens),)
        yield Session(number, (Request(number, prompt, demand.output_tokens),))


if __name__ == "__main__":
    main()
