"""Which kernel is chosen, and that the table says why."""

import sys
from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fullbore.errors import FullboreError
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.ops.candidates import Expected, NoEvidence
from fullbore.ops.contract import Job, Kernel
from fullbore.ops.demand import LADDER
from fullbore.ops.formats import Weight
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Entry, Registry
from fullbore.ops.selection import Bound, BoundByTokens, select
from fullbore.ops.tuned import shortfalls

JOB = Job("linear", (("in", 8), ("out", 4)), "fp32", "float32", "cpu")


class Plain(Kernel):
    name: ClassVar[str] = "plain"
    operator: ClassVar[str] = "linear"
    layout: ClassVar[str] = "rows"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    formats: ClassVar[tuple[str, ...]] = ("fp32",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    packings: ClassVar[list[str]] = []

    def pack(self, weight: Weight) -> Tensor:
        self.packings.append(self.name)
        return weight.data.clone()

    def run(self, packed: Any, *inputs: Any) -> Any:
        return inputs[0] @ packed.T


class Other(Plain):
    name = "other"


class Elsewhere(Plain):
    name = "elsewhere"
    devices = ("cuda",)
    dtypes = ("bfloat16",)


class Embed(Plain):
    name = "table"
    operator = "embed"

    def run(self, packed: Any, *inputs: Any) -> Any:
        return packed[inputs[0]]


class Known(NoEvidence):
    """Times a step, by job and kernel."""

    def __init__(self, times: Mapping[tuple[Job, str], float]) -> None:
        self.times = times

    def expected(self, job: Job, kernel: str) -> Expected | None:
        us = self.times.get((job, kernel))
        return None if us is None else Expected(us, (us / len(LADDER),) * len(LADDER))


def groups(*jobs: Job) -> Counter[tuple[Job, ...]]:
    return Counter((job,) for job in jobs)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = ModuleType("kernels_of_this_test")
    for kernel in (Plain, Other, Elsewhere, Embed):
        setattr(module, kernel.__name__, kernel)
    monkeypatch.setitem(sys.modules, "kernels_of_this_test", module)
    return Registry(
        [
            Entry("linear", "absent", "no_such_library_here:Kernel"),
            *(
                Entry(kernel.operator, kernel.name, f"kernels_of_this_test:{kernel.__name__}")
                for kernel in (Elsewhere, Plain, Other, Embed)
            ),
        ]
    )


def test_two_kernels_under_one_name_are_an_error_that_names_both() -> None:
    with pytest.raises(FullboreError, match=r"a:A and b:B"):
        Registry([Entry("linear", "x", "a:A"), Entry("linear", "x", "b:B")])
    Registry([Entry("linear", "x", "a:A"), Entry("embed", "x", "b:B"), Entry("linear", "x2", "a:A")])


def test_a_kernel_must_be_called_what_it_is_registered_as(registry: Registry) -> None:
    with pytest.raises(FullboreError, match=r"linear/renamed .* linear/plain"):
        Entry("linear", "renamed", "kernels_of_this_test:Plain").load()


def test_one_class_is_several_kernels_by_its_constants(registry: Registry) -> None:
    entry = Entry("linear", "plain_2", "kernels_of_this_test:Plain", constants=(("layout", "columns"),))
    kernel = entry.load()
    assert (kernel.name, kernel.family, kernel.layout) == ("plain_2", "plain", "columns")
    assert entry.load() is kernel
    assert (Plain.name, Plain.layout) == ("plain", "rows")
    with pytest.raises(FullboreError, match="linear/plain_3 sets tile, which Plain does not have"):
        Entry("linear", "plain_3", "kernels_of_this_test:Plain", constants=(("tile", 3),)).load()


def test_a_missing_library_is_told_by_name(registry: Registry) -> None:
    with pytest.raises(ImportError, match="no_such_library_here"):
        registry.candidates("linear")[0].load()


def test_candidates_keep_the_order_they_were_registered_in(registry: Registry) -> None:
    names = [entry.name for entry in registry.candidates("linear")]
    assert names == ["absent", "elsewhere", "plain", "other"]
    assert [entry.name for entry in registry.candidates("embed")] == ["table"]
    assert registry.candidates("no_such_operator") == ()


def test_every_registered_kernel_loads_and_belongs_to_an_operator() -> None:
    for entry in CATALOGUE.on("cpu").entries:  # a GPU's have tests of their own, where Triton is installed
        assert entry.load().operator in OPERATORS
    assert {entry.operator for entry in CATALOGUE.entries} == set(OPERATORS)


def test_a_kernel_that_is_registered_for_another_device_is_not_even_imported(
    registry: Registry,
) -> None:
    far = Entry("linear", "far", "no_such_library_here:Kernel", ("cuda",))
    near = Entry("linear", "plain", "kernels_of_this_test:Plain")
    both = Registry((far, near))
    choice = select(groups(JOB), both, "cpu", "float32").choices[JOB]
    assert [(loser.kernel, loser.reasons, loser.by_design) for loser in choice.losers] == [
        ("far", ("runs on cuda, not on cpu",), True)
    ]
    assert both.on("cpu").entries == (near,)
    assert both.on("cuda").entries == (far,)


def test_without_measurements_the_first_able_one_is_taken_and_says_so(registry: Registry) -> None:
    choice = select(groups(JOB), registry, "cpu", "float32").choices[JOB]
    assert choice.kernel.name == "plain"
    assert not choice.measured
    assert "not measured" in choice.why
    why = {loser.kernel: " ".join(loser.reasons) for loser in choice.losers}
    assert "no_such_library_here" in why["absent"]
    assert "cuda, not on cpu" in why["elsewhere"]
    assert "bfloat16, not in float32" in why["elsewhere"]
    assert why["other"] == "not measured"


@pytest.mark.parametrize(
    ("plain", "other", "winner"),
    [(3.0, 2.0, "other"), (2.0, 3.0, "plain"), (2.0, 2.0, "plain"), (None, 9.0, "other")],
)
def test_the_fastest_measured_wins_and_ties_go_by_registry_order(
    registry: Registry, plain: float | None, other: float | None, winner: str
) -> None:
    measured = {"plain": plain, "other": other, "elsewhere": 0.1}
    times = {(JOB, name): time for name, time in measured.items() if time is not None}
    choice = select(groups(JOB), registry, "cpu", "float32", Known(times)).choices[JOB]
    assert choice.kernel.name == winner
    assert choice.measured
    loser = next(loser for loser in choice.losers if loser.kernel in ("plain", "other"))
    assert loser.reasons[0].endswith("the winner's time") == (loser.time_us is not None)


def test_a_job_that_no_kernel_can_do_is_an_error_with_every_reason(registry: Registry) -> None:
    job = Job("linear", JOB.shape, "fp8_block", "float32", "cpu")
    with pytest.raises(FullboreError, match="no kernel can do") as raised:
        select(groups(job), registry, "cpu", "float32")
    for word in ("absent", "elsewhere", "plain: takes weights as fp32, not as fp8_block", "other", "out 4"):
        assert word in str(raised.value)
    with pytest.raises(FullboreError, match="none is registered"):
        select(groups(Job("rope", (), "none", "float32", "cpu")), registry, "cpu", "float32")


def test_kernels_of_one_layout_share_their_packed_weights(registry: Registry) -> None:
    weight = Weight(torch.randn(4, 8))
    jobs = [Job.of(OPERATORS[name], (weight,), "float32", "cpu") for name in ("linear", "embed")]
    selection = select(groups(*jobs), registry, "cpu", "float32")
    Plain.packings.clear()
    linear, embed = selection.bind(("linear", "embed"), weight)
    assert len(Plain.packings) == 1
    assert linear.packed is embed.packed
    assert torch.equal(linear(torch.eye(8)), weight.data.T)
    assert torch.equal(embed(torch.tensor([2])), weight.data[2:3])


def test_kernels_of_unlike_layouts_pack_each_its_own(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embed, "layout", "columns")
    weight = Weight(torch.randn(4, 8))
    jobs = [Job.of(OPERATORS[name], (weight,), "float32", "cpu") for name in ("linear", "embed")]
    linear, embed = select(groups(*jobs), registry, "cpu", "float32").bind(("linear", "embed"), weight)
    assert linear.packed is not embed.packed
    # a second matrix of the same shape is another matrix
    (again,) = select(groups(*jobs), registry, "cpu", "float32").bind(("linear",), Weight(weight.data + 1))
    assert not torch.equal(again.packed, linear.packed)


def test_a_selection_is_not_changed_after_it_is_made(registry: Registry) -> None:
    selection = select(groups(JOB, JOB), registry, "cpu", "float32")
    assert list(selection.choices) == [JOB]
    with pytest.raises(TypeError):
        selection.choices[JOB] = selection.choices[JOB]  # type: ignore[index]


def test_times_of_another_job_do_not_count(registry: Registry) -> None:
    wider = Job("linear", (("in", 16), ("out", 4)), "fp32", "float32", "cpu")
    choices = select(groups(JOB, wider), registry, "cpu", "float32", Known({(wider, "other"): 1.0})).choices
    assert choices[wider].kernel.name == "other"
    assert (choices[JOB].kernel.name, choices[JOB].measured) == ("plain", False)


def test_what_was_not_selected_cannot_be_bound(registry: Registry) -> None:
    selection = select(groups(JOB), registry, "cpu", "float32")
    with pytest.raises(FullboreError, match="in 9, out 4"):
        selection.bind(("linear",), Weight(torch.zeros(4, 9)))


def test_kernels_by_tokens_dispatch_on_the_rows_of_a_call(registry: Registry) -> None:
    weight = Weight(torch.randn(4, 8))
    cheap_when_few = tuple(float(n) for n in LADDER)
    cheap_when_many = tuple(float(LADDER[-1] - n) for n in LADDER)

    class ByTokens(NoEvidence):
        def expected(self, job: Job, kernel: str) -> Expected:
            buckets = cheap_when_few if kernel == "plain" else cheap_when_many
            return Expected(sum(buckets), buckets)

    selection = select(groups(JOB), registry, "cpu", "float32", ByTokens(), by_tokens=True)
    assert selection.choices[JOB].names == "plain to 256 tokens, other beyond"
    (linear,) = selection.bind(("linear",), weight)
    assert isinstance(linear, BoundByTokens)
    assert linear.packs[0] is linear.packs[-1], "one layout is packed once"
    for tokens in range(1, 600, 7):
        x = torch.randn(tokens, 8)
        assert torch.equal(linear(x), x @ weight.data.T)
        bucket = next((b for b, end in enumerate(LADDER) if tokens <= end), len(LADDER) - 1)
        assert selection.choices[JOB].at(tokens) is linear.bounds[bucket].kernel
        assert selection.choices[JOB].at(tokens).name == ("plain" if tokens <= 256 else "other")


def test_one_winner_for_all_buckets_is_bound_without_a_dispatch(registry: Registry) -> None:
    selection = select(groups(JOB), registry, "cpu", "float32", Known({(JOB, "other"): 1.0}), by_tokens=True)
    (linear,) = selection.bind(("linear",), Weight(torch.randn(4, 8)))
    assert isinstance(linear, Bound)
    assert linear.kernel.name == "other"


def test_a_refused_kernel_is_never_selected_and_costs_its_time_told(registry: Registry) -> None:
    class Refused(Known):
        def refusal(self, job: Job, kernel: str) -> str:
            return "refused: its error is 1e-1" if kernel == "other" else ""

    evidence = Refused({(JOB, "other"): 1.0, (JOB, "plain"): 5.0})
    selection = select(groups(JOB), registry, "cpu", "float32", evidence)
    assert selection.choices[JOB].kernel.name == "plain"
    told = "\n".join(shortfalls(selection))
    assert "kernel other refused: its error is 1e-1; computed instead: linear by plain (5x its time)" in told
    assert "elsewhere" not in told, "a kernel for another device is no shortfall here"


def test_what_was_never_compared_is_told(registry: Registry) -> None:
    told = "\n".join(shortfalls(select(groups(JOB), registry, "cpu", "float32")))
    assert "never compared with other kernels: linear by plain" in told
    assert "kernel absent cannot be imported" in told
    assert "how much slower was not measured" in told
