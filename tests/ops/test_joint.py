"""Choosing jointly: never more memory than there is, and never more time than is needed within it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.errors import CapacityError
from fullbore.ops.candidates import Candidates, Expected, NoEvidence
from fullbore.ops.contract import Job, Kernel
from fullbore.ops.demand import LADDER
from fullbore.ops.joint import ONE_HAND, choose, components

OPERATORS = ("linear", "embed", "mla_decode", "mla_prefill")
NAMES = ("a", "b", "c")


def kernel_class(operator_: str, name_: str, layout_: str) -> type[Kernel]:
    class Toy(Kernel):
        operator: ClassVar[str] = operator_
        name: ClassVar[str] = name_
        layout: ClassVar[str] = layout_

        def run(self, packed: Any, *inputs: Any) -> Any:
            raise NotImplementedError

    return Toy


@dataclass
class Facts(NoEvidence):
    buckets: Mapping[tuple[Job, str], tuple[float, ...]] = field(default_factory=dict)
    sizes: Mapping[tuple[Job, str], int] = field(default_factory=dict)

    def expected(self, job: Job, kernel: str) -> Expected | None:
        known = self.buckets.get((job, kernel))
        return None if known is None else Expected(sum(known), known)

    def packed_bytes(self, job: Job, kernel: str) -> int:
        return self.sizes.get((job, kernel), 0)


@dataclass
class World:
    groups: Mapping[tuple[Job, ...], int]
    considered: Mapping[Job, Candidates]
    facts: Facts
    limit: int | None


@st.composite
def worlds(draw: st.DrawFn) -> World:
    jobs = [
        Job(operator, (("in", size),), "fp32", "float32", "cpu")
        for size in range(draw(st.integers(1, 2)))
        for operator in draw(st.sets(st.sampled_from(OPERATORS), min_size=1))
    ]
    considered, buckets, sizes = {}, {}, {}
    for job in jobs:
        able = []
        for name in draw(st.sets(st.sampled_from(NAMES), min_size=1)):
            able.append(kernel_class(job.operator, name, draw(st.sampled_from(("x", "y")))))
            if draw(st.integers(0, 9)):
                times = draw(st.lists(st.integers(0, 9), min_size=len(LADDER), max_size=len(LADDER)))
                buckets[job, name] = tuple(map(float, times))
            sizes[job, name] = draw(st.integers(0, 20))
        considered[job] = Candidates(job, tuple(sorted(able, key=lambda kernel: kernel.name)), ())
    groups: dict[tuple[Job, ...], int] = {(job,): draw(st.integers(1, 3)) for job in jobs}
    if len(jobs) > 1 and draw(st.booleans()):
        groups[jobs[0], jobs[1]] = draw(st.integers(1, 3))
        if draw(st.booleans()):
            del groups[jobs[0],]
    limit = draw(st.one_of(st.none(), st.integers(0, 150)))
    return World(groups, considered, Facts(buckets, sizes), limit)


Way = Mapping[Job, tuple[type[Kernel], ...]]


def cost(world: World, way: Way) -> tuple[int, float]:
    unknown, us = 0, 0.0
    for group, count in world.groups.items():
        for job in group:
            kernels = way[job] * len(LADDER) if len(way[job]) == 1 else way[job]
            parts = [world.facts.buckets.get((job, kernel.name)) for kernel in kernels]
            unknown += count * any(part is None for part in parts)
            if all(parts):
                us += count * sum(part[bucket] for bucket, part in enumerate(parts) if part)
    return unknown, us


def memory(world: World, way: Way) -> int:
    total = 0
    for group, count in world.groups.items():
        layouts: dict[str, int] = {}
        for job in group:
            for kernel in way[job]:
                size = world.facts.packed_bytes(job, kernel.name)
                layouts[kernel.layout] = max(layouts.get(kernel.layout, 0), size)
        total += count * sum(layouts.values())
    return total


def of_one_hand(group: Mapping[tuple[Job, ...], int], way: Way) -> bool:
    jobs = {job for each in group for job in each}
    return len({way[job][0].name for job in jobs if job.operator in ONE_HAND}) < 2


def all_ways(world: World) -> list[Way]:
    """Every one kernel a job, where a component's attention comes from one hand if it can."""
    jobs = list(world.considered)
    ways: list[Way] = [
        {job: (kernel,) for job, kernel in zip(jobs, chosen, strict=True)}
        for chosen in product(*(world.considered[job].able for job in jobs))
    ]
    for component in components(world.groups):
        alike = [way for way in ways if of_one_hand(component, way)]
        ways = alike or ways
    return ways


@given(worlds())
def test_one_kernel_a_job_costs_least_of_all_that_fit(world: World) -> None:
    fitting = [way for way in all_ways(world) if world.limit is None or memory(world, way) <= world.limit]
    try:
        chosen = choose(world.groups, world.considered, world.facts, False, world.limit)
    except CapacityError:
        assert not fitting
        return
    assert set(chosen) == set(world.considered)
    assert all(
        len(kernels) == 1 and kernels[0] in world.considered[job].able for job, kernels in chosen.items()
    )
    assert world.limit is None or memory(world, chosen) <= world.limit
    assert cost(world, chosen) == min(cost(world, way) for way in fitting)


@given(worlds())
def test_kernels_that_differ_by_tokens_cost_no_more_and_fit_too(world: World) -> None:
    try:
        chosen = choose(world.groups, world.considered, world.facts, True, world.limit)
    except CapacityError:
        assert all(memory(world, way) > (world.limit or 0) for way in all_ways(world))
        return
    assert world.limit is None or memory(world, chosen) <= world.limit
    for job, kernels in chosen.items():
        assert len(kernels) in (1, len(LADDER))
        assert len(kernels) == 1 or len(set(kernels)) > 1, "one kernel for all must cost nothing a call"
        assert set(kernels) <= set(world.considered[job].able)
    fitting = [way for way in all_ways(world) if world.limit is None or memory(world, way) <= world.limit]
    if fitting:
        assert cost(world, chosen) <= min(cost(world, way) for way in fitting)


@given(worlds())
def test_without_a_limit_each_bucket_has_its_fastest(world: World) -> None:
    chosen = choose(world.groups, world.considered, world.facts, True, None)
    for job, kernels in chosen.items():
        known = [times for (other, _), times in world.facts.buckets.items() if other == job]
        if known:
            row = kernels * len(LADDER) if len(kernels) == 1 else kernels
            for bucket, kernel in enumerate(row):
                assert world.facts.buckets[job, kernel.name][bucket] == min(times[bucket] for times in known)


@given(worlds())
def test_components_keep_every_group_and_share_no_job(world: World) -> None:
    parts = components(world.groups)
    assert {group: count for part in parts for group, count in part.items()} == world.groups
    jobs = [{job for group in part for job in group} for part in parts]
    assert sum(map(len, jobs)) == len(set().union(*jobs))


def test_nothing_known_leaves_the_registrys_order() -> None:
    job = Job("linear", (), "fp32", "float32", "cpu")
    able = tuple(kernel_class("linear", name, name) for name in ("second", "first"))
    for by_tokens in (False, True):
        chosen = choose({(job,): 3}, {job: Candidates(job, able, ())}, NoEvidence(), by_tokens, None)
        assert chosen[job] == (able[0],)


def test_a_limit_that_nothing_keeps_names_what_is_needed() -> None:
    job = Job("linear", (), "fp32", "float32", "cpu")
    kernel = kernel_class("linear", "only", "x")
    facts = Facts(sizes={(job, "only"): 3 << 30})
    with pytest.raises(CapacityError, match=r"6\.0 GiB .* 5\.0 GiB are free"):
        choose({(job,): 2}, {job: Candidates(job, (kernel,), ())}, facts, False, 5 << 30)
