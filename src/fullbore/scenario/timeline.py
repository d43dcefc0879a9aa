"""A run as it went along: what was in flight and what came, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from fullbore.scenario.metrics import CANCELLED, Record

MOST_STEPS = 1000
STEPS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0, 3600.0)
FEWEST_STEPS = 60  # where shorter steps give as many: a run of ten seconds is not drawn in ten points


@dataclass(frozen=True)
class Timeline:
    """One number a step of ``step_s`` seconds, from the first send on. Tokens and completions are counts."""

    step_s: float
    in_flight: tuple[float, ...]  # mean over the step, requests that failed included
    output_tokens: tuple[float, ...]
    prompt_tokens: tuple[float, ...]  # of the requests whose first token came: prefill done
    completions: tuple[int, ...]  # requests that ended well


def timeline(records: Sequence[Record]) -> Timeline | None:
    """None for a run in which nothing was sent. In whole seconds, finer in short runs and coarser in long
    ones."""
    if not records:
        return None
    begin_s = min(record.sent_s for record in records)
    duration_s = max(record.ended_s for record in records) - begin_s
    step_s = _step_s(duration_s)
    steps = max(1, ceil(duration_s / step_s))
    in_flight, output, prompt, completions = ([0.0] * steps for _ in range(4))

    def at(time_s: float) -> int:
        return min(steps - 1, max(0, floor((time_s - begin_s) / step_s)))

    for record in records:
        first, last = at(record.sent_s), at(record.ended_s)
        for step in range(first, last + 1):
            from_s = max(record.sent_s - begin_s, step * step_s)
            to_s = min(record.ended_s - begin_s, (step + 1) * step_s)
            in_flight[step] += max(0.0, to_s - from_s) / step_s
        if record.outcome == CANCELLED or not record.ok:
            continue
        per_chunk = record.output_tokens / len(record.chunks_s)
        for time_s in record.chunks_s:
            output[at(time_s)] += per_chunk
        prompt[at(record.chunks_s[0])] += record.input_tokens
        completions[last] += 1
    return Timeline(step_s, tuple(in_flight), tuple(output), tuple(prompt), tuple(map(int, completions)))


def _step_s(duration_s: float) -> float:
    """The longest of at most a second that gives enough steps, and longer ones where there would be too
    many."""
    short = [step_s for step_s in STEPS_S if step_s <= 1 and duration_s / step_s >= FEWEST_STEPS]
    long = [step_s for step_s in STEPS_S if duration_s / step_s <= MOST_STEPS]
    fitting = long[0] if long else duration_s / MOST_STEPS
    return max(fitting, short[-1] if short else STEPS_S[0])
