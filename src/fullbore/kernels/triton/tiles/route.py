"""The choice of experts for one token."""

import triton
import triton.language as tl


@triton.jit
def route_row(
    sums, bias, ids, weights, rows, scale,
    EXPERTS: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, PARTS: tl.constexpr,
    SPLIT: tl.constexpr, NORMALISE: tl.constexpr,
    GROUPS_ROOM: tl.constexpr, EACH_ROOM: tl.constexpr, K_ROOM: tl.constexpr,
):  # fmt: skip
    """ids, weights: [rows, K]. sums: [SPLIT, rows, PARTS, EXPERTS], logits in parts. Of equals the first."""
    row = tl.program_id(0).to(tl.int64)
    EACH: tl.constexpr = EXPERTS // GROUPS
    group = tl.arange(0, GROUPS_ROOM)
    inside = tl.arange(0, EACH_ROOM)
    known = (group[:, None] < GROUPS) & (inside[None, :] < EACH)
    expert = tl.where(known, group[:, None] * EACH + inside[None, :], EXPERTS)
    logit = tl.zeros((GROUPS_ROOM, EACH_ROOM), tl.float32)
    for part in tl.static_range(PARTS):
        for split in tl.static_range(SPLIT):
            logit += tl.load(sums + ((split * rows + row) * PARTS + part) * EXPERTS + expert, known, 0.0)
    score = 1.0 / (1.0 + tl.exp(-logit))
    choice = score + tl.load(bias + expert, known, 0.0)
    # nan chooses last, and different experts: its weights tell of it.
    choice = tl.where(choice == choice, choice, -3e38)
    choice = tl.where(known, choice, float("-inf"))
    if KEPT < GROUPS:
        best = tl.max(choice, 1)
        first = tl.min(tl.where(choice == best[:, None], inside[None, :], EACH_ROOM), 1)
        second = tl.max(tl.where(inside[None, :] == first[:, None], float("-inf"), choice), 1)
        strength = tl.where(group < GROUPS, best + second, float("-inf"))
        other = tl.reshape(strength, (1, GROUPS_ROOM))
        before = (other > strength[:, None]) | (
            (other == strength[:, None]) & (group[None, :] < group[:, None])
        )
        rank = tl.sum(before.to(tl.int32), 1)
        choice = tl.where(rank[:, None] < KEPT, choice, float("-inf"))
    slot = tl.arange(0, K_ROOM)
    chosen = tl.zeros((K_ROOM,), tl.int32)
    weight = tl.zeros((K_ROOM,), tl.float32)
    for place in tl.static_range(K):
        best = tl.max(tl.max(choice, 1), 0)
        mine = tl.min(tl.min(tl.where(choice == best, expert, EXPERTS), 1), 0)
        is_mine = expert == mine
        chosen = tl.where(slot == place, mine, chosen)
        weight = tl.where(slot == place, tl.sum(tl.sum(tl.where(is_mine, score, 0.0), 1), 0), weight)
        choice = tl.where(is_mine, float("-inf"), choice)
    if NORMALISE:
        weight = weight / (tl.sum(weight, 0) + 1e-20)
    tl.store(ids + row * K + slot, chosen.to(tl.int64), slot < K)
    tl.store(weights + row * K + slot, weight * scale, slot < K)
