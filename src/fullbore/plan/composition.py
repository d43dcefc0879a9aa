"""The engine's step in counts: all that the step-time model asks of it."""

from fullbore.engine.step import Step as Planned
from fullbore.steptime.step import Step


def composition(planned: Planned) -> Step:
    """What ``planned`` computes. A row of one token counts as a decode, as it does in the runner."""
    decodes = sampled = len(planned.decodes.requests)
    context = planned.decodes.tokens_before
    tokens = chunks = 0
    pairs = 0.0
    for row in planned.others:
        count = row.count
        sampled += row.samples
        if count == 1:
            decodes += 1
            context += row.first
        else:
            chunks += 1
            tokens += count
            pairs += count * row.first + count * (count + 1) / 2
    return Step(decodes, float(context + decodes), tokens, pairs, sampled, chunks)
