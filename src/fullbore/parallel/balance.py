"""How evenly tokens choose experts, where the choice is drawn instead of computed.

Popularities are those of the step-time model (``steptime.routing``): quantiles of a Gamma distribution of
shape ``evenness`` within each device's experts, so their relative variance is 1 / evenness, and one device's
experts are chosen more than the mean.
"""

import math
import random
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from fullbore.errors import UsageError

NATURAL, BALANCED = "natural", "balanced"
EVENNESS = 4  # of real prompts, as the step-time model has it
SLOTS = 1024  # of a table, for each expert that a token chooses


@dataclass(frozen=True)
class Balance:
    """busiest: tokens of this device's experts over the mean, at least 1; a server waits for its busiest.
    evenness: a whole number; 0: all experts of a device alike."""

    busiest: float = 1.0
    evenness: int = EVENNESS


def parse_balance(text: str) -> Balance | None:
    """What ``--routing`` says: natural (None), balanced, or a ratio such as 1.2. UsageError for others."""
    if text == NATURAL:
        return None
    if text == BALANCED:
        return Balance(1.0, 0)
    try:
        busiest = float(text)
    except ValueError:
        busiest = 0.0
    if not 1 <= busiest < math.inf:
        raise UsageError(
            f"--routing {text[:40]!r}, expected {NATURAL} (the gate chooses), {BALANCED}, or the tokens of "
            "the busiest device's experts over the mean, such as 1.2"
        )
    return Balance(busiest)


def expert_table(balance: Balance, experts: range, of: int, chosen: int, seed: int) -> list[int]:
    """``SLOTS * chosen`` numbers of experts, each as often as it is popular, in one run.

    A token that takes every ``SLOTS``-th from a random place on chooses ``chosen`` different experts, each
    with exactly its popularity (systematic sampling; Madow 1949). experts: this device's, of ``of`` in all.
    UsageError where its experts cannot be chosen so often.
    """
    groups = of // len(experts)
    share = balance.busiest / groups
    if share > 1 or (balance.busiest > 1 and share * chosen > len(experts)):
        most = min(groups, len(experts) * groups / chosen)
        raise UsageError(
            f"--routing {balance.busiest:g}: {len(experts)} of {of} experts cannot be chosen so often by "
            f"tokens that choose {chosen} each; expected at most {most:.3g}"
        )
    draw = random.Random(f"experts {seed}")
    wanted = [0.0] * of
    for first in range(0, of, len(experts)):
        each = list(_quantiles(len(experts), balance.evenness))
        draw.shuffle(each)
        mine = first == experts.start
        of_group = share if mine or groups == 1 else (1 - share) / (groups - 1)
        for place, popularity in enumerate(each):
            wanted[first + place] = popularity * of_group
    order = list(range(of))
    draw.shuffle(order)
    slots = _whole(_at_most([wanted[expert] for expert in order], 1 / chosen), SLOTS * chosen)
    return [expert for expert, count in zip(order, slots, strict=True) for _ in range(count)]


@cache
def _quantiles(count: int, evenness: int) -> tuple[float, ...]:
    """Of the Gamma distribution of this whole shape, in equal steps; they sum to 1."""
    if not evenness:
        return (1 / count,) * count
    found = []
    for step in range(count):
        low, high = 0.0, 40.0 + 10 * evenness
        for _ in range(60):
            middle = (low + high) / 2
            term, missing = 1.0, 0.0
            for index in range(evenness):
                missing += term
                term *= middle / (index + 1)
            low, high = (
                (low, middle) if 1 - math.exp(-middle) * missing > (step + 0.5) / count else (middle, high)
            )
        found.append((low + high) / 2)
    total = sum(found)
    return tuple(each / total for each in found)


def _at_most(shares: list[float], most: float) -> list[float]:
    """What exceeds ``most`` goes to the others: no token chooses an expert twice."""
    for _ in shares:
        over = sum(max(0.0, share - most) for share in shares)
        room = sum(share for share in shares if share < most)
        if over < 1e-12 or not room:
            break
        shares = [min(share, most) if share >= most else share * (1 + over / room) for share in shares]
    return shares


def _whole(shares: list[float], total: int) -> list[int]:
    """Whole numbers nearest to ``shares`` of ``total``, which they add up to."""
    ends = [0.0]
    for share in shares:
        ends.append(ends[-1] + share)
    marks = [round(end / ends[-1] * total) for end in ends]
    return [after - before for before, after in pairwise(marks)]
