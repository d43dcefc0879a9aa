"""How long a plan takes: ``python -m benchmarks.planning [SERVER]``, in CPU time of one core.

The search over all layouts for dialog and code, with lengths that are alike and that vary, without and with
drafts; and one simulation in counts of each scenario. How fast the scheduler that serves is simulated,
``benchmarks.simulated`` tells.
"""

import sys
import time

from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.plan.demand import demand_of
from fullbore.plan.search import search
from fullbore.plan.space import Space, layouts_of, trials, usual_recipes
from fullbore.scenario.scenario import load_scenario
from fullbore.steptime.profiles import find_profile

CONCURRENCY = 158
ACCEPTANCE = 0.8
SPACES = ((1.0, (0,)), (0.8, (0,)), (1.0, (0, 1, 2)), (0.8, (0, 1, 2)))


def main() -> None:
    server = find_server(sys.argv[1] if len(sys.argv) > 1 else "8xMI300X")
    config, profile = named_config(DEEPSEEK_V3), find_profile("sglang", server.device)
    print(f"plans for {server.name}, CPU time of one core", flush=True)
    for length_range, drafts in SPACES:
        demands = [demand_of(load_scenario(name), length_range) for name in ("dialog", "code")]
        space = Space(layouts_of(config, server), usual_recipes(server), drafts=drafts, acceptance=ACCEPTANCE)
        begun_s = time.process_time()
        found = search(trials(config, server, profile, space, demands), demands)
        searched_s = time.process_time() - begun_s
        trial = found.best.trial
        once_ms = []
        for demand in demands:
            policy = trial.profile.policy
            fresh = trial.with_policy(policy.chunk_tokens, policy.most_running)
            begun_s = time.process_time()
            fresh.at(demand, CONCURRENCY)
            once_ms.append(f"{(time.process_time() - begun_s) * 1e3:.0f}")
        lengths = f"lengths {length_range:g} to 1" if length_range < 1 else "lengths alike"
        print(
            f"{lengths}, drafts {', '.join(map(str, drafts))}: {found.tried} ways in {searched_s:.1f} s; "
            f"one simulation in counts at {CONCURRENCY}: dialog {once_ms[0]} ms, code {once_ms[1]} ms; "
            f"chosen: {trial}",
            flush=True,
        )


if __name__ == "__main__":
    main()
