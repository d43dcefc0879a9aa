"""Choosing kernels together: what shares weights shares memory, and a token's two ways share their bits.

Jobs that touch the same weights form a component. Its options are the ways to give each of its jobs kernels;
an option costs time in a step and bytes of packed weights. One option of each component is chosen so that the
sum of times is least while the sum of bytes stays within the limit: exactly, by keeping of every partial sum
only what no other beats in both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from fullbore.errors import CapacityError
from fullbore.ops.candidates import Candidates, Evidence, Expected
from fullbore.ops.contract import Job, Kernel
from fullbore.ops.demand import LADDER

# A preempted request's tokens come back through prefill although they first came through decode, and its
# answer must not change for that: these operators take kernels of one family where there is such a pair.
ONE_HAND = frozenset({"mla_decode", "mla_prefill"})

Groups = Mapping[tuple[Job, ...], int]  # jobs of one set of weights -> sets in the model
Cost = tuple[int, float]  # kernels that nothing is known of, then microseconds a step


@dataclass(frozen=True)
class Option:
    """``kernels``: for each job one kernel, or one for each bucket of tokens."""

    kernels: Mapping[Job, tuple[type[Kernel], ...]]
    cost: Cost
    bytes: int


def choose(
    groups: Groups,
    considered: Mapping[Job, Candidates],
    evidence: Evidence,
    by_tokens: bool,
    limit: int | None,
) -> Mapping[Job, tuple[type[Kernel], ...]]:
    """The kernels of every job: of least cost within ``limit`` bytes, ties in the registry's order.

    CapacityError where not even the smallest layouts fit.
    """
    front: list[tuple[Cost, int, tuple[Option, ...]]] = [((0, 0.0), 0, ())]
    for component in components(groups):
        options = _options(component, considered, evidence, by_tokens)
        sums = [
            ((cost[0] + option.cost[0], cost[1] + option.cost[1]), bytes + option.bytes, (*chosen, option))
            for cost, bytes, chosen in front
            for option in options
        ]
        front = _unbeaten(sums)
    fitting = [entry for entry in front if limit is None or entry[1] <= limit]
    if not fitting:
        least = min(bytes for _, bytes, _ in front)
        raise CapacityError(
            f"the weights need {least / 2**30:.1f} GiB in the smallest layouts there are, and "
            f"{(limit or 0) / 2**30:.1f} GiB are free (free some memory, or use a smaller model)"
        )
    best = min(fitting, key=lambda entry: entry[0])
    return {job: kernels for option in best[2] for job, kernels in option.kernels.items()}


def components(groups: Groups) -> list[Groups]:
    """Groups apart by the jobs they share, directly or through others."""
    parts: list[dict[tuple[Job, ...], int]] = []
    for group, count in groups.items():
        touching = [part for part in parts if any(set(other) & set(group) for other in part)]
        joined = {other: n for part in touching for other, n in part.items()} | {group: count}
        parts = [part for part in parts if part not in touching] + [joined]
    return list(parts)


def _unbeaten(
    sums: Iterable[tuple[Cost, int, tuple[Option, ...]]],
) -> list[tuple[Cost, int, tuple[Option, ...]]]:
    """Cheapest first; what costs more must be smaller. Of equals the first stays (the sort is stable)."""
    kept: list[tuple[Cost, int, tuple[Option, ...]]] = []
    for entry in sorted(sums, key=lambda entry: entry[:2]):
        if not kept or entry[1] < kept[-1][1]:
            kept.append(entry)
    return kept


def _options(
    component: Groups, considered: Mapping[Job, Candidates], evidence: Evidence, by_tokens: bool
) -> list[Option]:
    jobs = list(dict.fromkeys(job for group in component for job in group))
    counts = {job: sum(count for group, count in component.items() if job in group) for job in jobs}
    able = [considered[job].able for job in jobs]
    if by_tokens:
        allowed = [list(_subsets(kernels)) for kernels in able]
        ways = [
            {job: _best_by_bucket(job, few, evidence) for job, few in zip(jobs, chosen, strict=True)}
            for chosen in product(*allowed)
        ]
    else:
        singles = [dict(zip(jobs, chosen, strict=True)) for chosen in product(*able)]
        alike = [
            way for way in singles if len({_hand(way[job]) for job in jobs if job.operator in ONE_HAND}) < 2
        ]
        ways = [{job: (kernel,) for job, kernel in way.items()} for way in alike or singles]
    return [Option(way, _cost(way, counts, evidence), _bytes(way, component, evidence)) for way in ways]


def _hand(kernel: type[Kernel]) -> str:
    return kernel.family or kernel.name


def _subsets(kernels: Sequence[type[Kernel]]) -> Iterable[tuple[type[Kernel], ...]]:
    for size in range(1, len(kernels) + 1):
        yield from combinations(kernels, size)


def _best_by_bucket(
    job: Job, kernels: Sequence[type[Kernel]], evidence: Evidence
) -> tuple[type[Kernel], ...]:
    """One kernel for all where that is what comes out, or where nothing is known."""
    known = [(kernel, expected) for kernel in kernels if (expected := evidence.expected(job, kernel.name))]
    if not known:
        return (kernels[0],)
    chosen = tuple(min(known, key=lambda pair: pair[1].by_bucket[b])[0] for b in range(len(LADDER)))
    return chosen if len(set(chosen)) > 1 else chosen[:1]


def _cost(way: Mapping[Job, tuple[type[Kernel], ...]], counts: Mapping[Job, int], evidence: Evidence) -> Cost:
    unknown, us = 0, 0.0
    for job, kernels in way.items():
        expected = expected_of(job, kernels, evidence)
        if expected is None:
            unknown += counts[job]
        else:
            us += counts[job] * expected.us
    return unknown, us


def expected_of(job: Job, kernels: Sequence[type[Kernel]], evidence: Evidence) -> Expected | None:
    """What a job costs with these kernels: one, or one for each bucket."""
    if len(kernels) == 1:
        return evidence.expected(job, kernels[0].name)
    found = [evidence.expected(job, kernel.name) for kernel in kernels]
    parts = tuple(each.by_bucket[bucket] for bucket, each in enumerate(found) if each is not None)
    if len(parts) < len(found):
        return None
    source = "measured" if all(each and each.source == "measured" for each in found) else "interpolated"
    return Expected(sum(parts), parts, source)


def _bytes(way: Mapping[Job, tuple[type[Kernel], ...]], component: Groups, evidence: Evidence) -> int:
    """Packed once a layout and set of weights."""
    total = 0
    for group, count in component.items():
        layouts: dict[str, int] = {}
        for job in group:
            for kernel in way[job]:
                size = evidence.packed_bytes(job, kernel.name)
                layouts[kernel.layout] = max(size, layouts.get(kernel.layout, 0))
        total += count * sum(layouts.values())
    return total
