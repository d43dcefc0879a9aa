"""How many experts a step touches, and how many rows its tiles are padded to."""

import math

_EXACT_ROWS = 400.0  # above so many rows an expert, a tile's border may lie anywhere and the mean is exact


def experts_touched(experts: int, chosen: int, tokens: int, evenness: float = math.inf) -> float:
    """Of ``experts``, expected, when ``tokens`` choose ``chosen`` each, independently.

    evenness: how alike experts are in being chosen: their popularities are Gamma with that shape, so their
    relative variance is 1 / evenness. Infinite: all alike, which touches most.
    """
    if math.isinf(evenness):
        missed = math.pow(1.0 - chosen / experts, tokens)
    else:
        missed = math.pow(1.0 + tokens * chosen / (experts * evenness), -evenness)
    return experts * (1.0 - missed)


def padded_rows(experts: int, chosen: int, tokens: int, tile: int) -> float:
    """Rows of all experts, each filled up to whole tiles of ``tile``; counts of an expert are Poisson."""
    mean = tokens * chosen / experts
    if tile <= 1 or mean == 0.0:
        return tokens * float(chosen)
    if mean > _EXACT_ROWS:
        return experts * (mean + tile / 2)
    most = int(mean + 12.0 * math.sqrt(mean) + 12)
    probability, tiles = math.exp(-mean), 0.0
    for rows in range(1, most + 1):
        probability *= mean / rows
        tiles += probability * -(-rows // tile)
    return experts * tiles * tile
