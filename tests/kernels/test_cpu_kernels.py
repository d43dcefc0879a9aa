"""What the kernels in C++ promise beyond the right values, on each instruction set that this machine has."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from every_kernel import native_of, panel_isas
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from fullbore.errors import FullboreError, IntegrityError
from fullbore.kernels.cpu import moe
from fullbore.kernels.cpu.build import Isa
from fullbore.kernels.cpu.linear import CpuLinear
from fullbore.kernels.cpu.moe import CpuMoeFfn, CpuSwiglu
from fullbore.kernels.cpu.packed import FORMATS as PACKED
from fullbore.kernels.cpu.packed import dequantise
from fullbore.ops.contract import DTYPES, packed_bytes
from fullbore.ops.draws import draw_weight
from fullbore.ops.ffn import draw_expert, expert_bytes
from fullbore.ops.formats import INTEGERS, PLAIN, Weight
from fullbore.ops.operators import OPERATORS

FORMATS = tuple(PACKED)
ON_EACH = pytest.mark.parametrize("isa", panel_isas(), ids=lambda isa: isa.name)
IN_EACH = pytest.mark.parametrize("dtype", DTYPES)
# around the tile (6), the panel (64), the block (128) and odd, where a pair of inputs is half empty
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 129, 193, 256, 391]))
ROWS = st.one_of(st.integers(1, 20), st.sampled_from([60, 251, 252, 253, 300]))
SETTINGS = settings(max_examples=25, deadline=None)
Case = tuple[Any, Any, Sequence[Tensor]]  # kernel, packed weights, inputs by row


def drawn(data: st.DataObject, isa: Isa, dtype: str, threads: int = 2) -> Case:
    """One of the kernels with weights and rows of any size."""
    g = Generator().manual_seed(data.draw(st.integers(0, 99)))
    rows, in_, out = data.draw(ROWS), data.draw(SIZES), data.draw(SIZES)
    format, which = data.draw(st.sampled_from(FORMATS)), data.draw(st.integers(0, 2))
    x = torch.randn(rows, in_, generator=g).to(DTYPES[dtype])
    native = native_of(isa, threads)
    if which == 0:
        linear = CpuLinear(dtype, native)
        return linear, linear.pack(draw_weight(out, in_, format, g)), (x,)
    shape = {"hidden": in_, "inter": out}
    if which == 1:
        swiglu = CpuSwiglu(dtype, native)
        return swiglu, swiglu.pack(*draw_expert(shape, format, g)), (x,)
    experts = data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, experts))
    moe = CpuMoeFfn(dtype, native)
    ids = torch.rand(rows, experts, generator=g).topk(k, dim=-1).indices
    widths = [out] * experts + data.draw(st.lists(SIZES, max_size=1))  # the shared one, where there is one
    packed = moe.pack([draw_expert({**shape, "inter": width}, format, g) for width in widths], experts)
    return moe, packed, (x, ids, torch.rand(ids.shape, generator=g))


@ON_EACH
@IN_EACH
@SETTINGS
@given(data=st.data())
def test_a_row_does_not_depend_on_its_neighbours(isa: Isa, dtype: str, data: st.DataObject) -> None:
    kernel, packed, inputs = drawn(data, isa, dtype)
    whole = kernel.run(packed, *inputs)
    for _ in range(3):
        picks = st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=20)
        rows = torch.tensor(data.draw(picks))
        assert torch.equal(kernel.run(packed, *(each[rows] for each in inputs)), whole[rows])


@ON_EACH
@IN_EACH
@SETTINGS
@given(data=st.data())
def test_results_do_not_depend_on_the_number_of_threads(isa: Isa, dtype: str, data: st.DataObject) -> None:
    kernel, packed, inputs = drawn(data, isa, dtype, threads=1)
    alone = kernel.run(packed, *inputs)
    for threads in (2, 3):
        other = type(kernel)(dtype, native_of(isa, threads))
        assert torch.equal(other.run(packed, *inputs), alone)


@ON_EACH
@IN_EACH
@SETTINGS
@given(data=st.data(), bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_what_is_no_number_stays_in_its_row_and_shows(
    isa: Isa, dtype: str, data: st.DataObject, bad: float
) -> None:
    kernel, packed, inputs = drawn(data, isa, dtype)
    x = inputs[0]
    whole = kernel.run(packed, *inputs)
    row, column = (data.draw(st.integers(0, size - 1)) for size in x.shape)
    spoilt = x.clone()
    spoilt[row, column] = bad
    found = kernel.run(packed, spoilt, *inputs[1:])
    others = torch.arange(len(x)) != row
    assert torch.equal(found[others], whole[others])
    assert not bool(found[row].isfinite().all())


@ON_EACH
@IN_EACH
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 4, 6, 7, 40])
def test_every_weight_counts_once(isa: Isa, dtype: str, format: str, rows: int) -> None:
    """Integers small enough to add up exactly, around the ends of blocks and panels: equal to the bit."""
    kernel = CpuLinear(dtype, native_of(isa, 2))
    g = Generator().manual_seed(rows)
    for out, in_ in ((1, 1), (64, 127), (65, 128), (130, 129), (63, 255), (128, 257), (70, 384)):
        weight = whole_numbers(out, in_, format, g)
        # 127 or nothing: where these are quantised too, their scale is 1, and no rounding hides a slip
        x = 127 * torch.randint(-1, 2, (rows, in_), generator=g).to(DTYPES[dtype])
        expected = (x.float() @ weight.dequantise(torch.float32).T).to(DTYPES[dtype])
        assert torch.equal(kernel.run(kernel.pack(weight), x), expected), (out, in_)


def whole_numbers(out: int, in_: int, format: str, g: Generator) -> Weight:
    """Numbers that every format holds exactly, with another factor for each group."""
    numbers = torch.randint(-1, 2, (out, in_), generator=g)
    if format in PLAIN:
        return Weight(numbers.to(PLAIN[format]))
    if format == "fp8_block":
        down, across = -(-out // 128), -(-in_ // 128)
        return Weight(
            numbers.to(torch.float8_e4m3fn), torch.arange(1.0, 1 + down * across).view(down, across)
        )
    integer = INTEGERS[format]
    numbers = torch.randint(-integer.largest, integer.largest + 1, (out, in_), generator=g)
    groups = torch.arange(out * -(-in_ // integer.group)) % 3
    return Weight(numbers.to(torch.int8), (2.0**groups).bfloat16().view(out, -1), integer)


@ON_EACH
@IN_EACH
@pytest.mark.parametrize("rows", [1, 9])  # decoded in registers and through memory
def test_every_code_of_e4m3_is_read_as_its_value(isa: Isa, dtype: str, rows: int) -> None:
    kernel = CpuLinear(dtype, native_of(isa, 2))
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    values = codes.float()
    numbers = values.isfinite()
    for input_ in (0, 1, 130):  # alone in its row, else nan would spread
        data = torch.zeros(256, 131).to(torch.float8_e4m3fn)
        data[:, input_] = codes
        x = torch.zeros(rows, 131, dtype=DTYPES[dtype])
        x[:, input_] = 1
        y = kernel.run(kernel.pack(Weight(data, torch.ones(2, 2))), x).float()
        assert torch.equal(y[:, numbers], values[numbers].expand(rows, -1))
        assert bool(y[:, ~numbers].isnan().all())


@ON_EACH
@IN_EACH
def test_dequantising_gives_the_bits_of_the_definition(isa: Isa, dtype: str) -> None:
    kernel, g = CpuLinear(dtype, native_of(isa, 2)), Generator().manual_seed(2)
    for out, in_ in ((1, 1), (128, 128), (129, 127), (300, 257)):
        weight = draw_weight(out, in_, "fp8_block", g)
        assert torch.equal(dequantise(kernel, weight), weight.dequantise(kernel.dtype)), (out, in_)


@ON_EACH
def test_rows_that_are_views_are_read_as_they_are(isa: Isa) -> None:
    g = Generator().manual_seed(3)
    kernel = CpuLinear("float32", native_of(isa, 2))
    packed = kernel.pack(draw_weight(40, 50, "bf16", g))
    wide = torch.randn(9, 120, generator=g)
    assert torch.equal(kernel.run(packed, wide[:, 30:80]), kernel.run(packed, wide[:, 30:80].clone()))
    assert torch.equal(kernel.run(packed, wide[::2, :50]), kernel.run(packed, wide[::2, :50].clone()))
    transposed = draw_weight(50, 40, "bf16", g).data.T
    assert torch.equal(
        kernel.run(kernel.pack(Weight(transposed)), wide[:, :50]),
        kernel.run(kernel.pack(Weight(transposed.contiguous())), wide[:, :50]),
    )


def test_no_rows_give_no_rows() -> None:
    g = Generator().manual_seed(3)
    linear, swiglu = CpuLinear("float32"), CpuSwiglu("float32")
    assert linear.run(linear.pack(draw_weight(5, 7, "bf16", g)), torch.zeros(0, 7)).shape == (0, 5)
    expert = draw_expert({"hidden": 7, "inter": 9}, "bf16", g)
    assert swiglu.run(swiglu.pack(*expert), torch.zeros(0, 7)).shape == (0, 7)


@pytest.mark.parametrize("id_", [-1, 3, 1 << 40])
def test_an_expert_that_is_none_is_refused(id_: int) -> None:
    g = Generator().manual_seed(1)
    kernel = CpuMoeFfn("float32")
    packed = kernel.pack([draw_expert({"hidden": 8, "inter": 8}, "bf16", g) for _ in range(3)], 3)
    with pytest.raises(IntegrityError, match=r"expert that is not in \[0, 3\)"):
        kernel.run(packed, torch.zeros(2, 8), torch.tensor([[0], [id_]]), torch.ones(2, 1))


def test_matrices_of_unlike_formats_are_refused_by_name() -> None:
    g = Generator().manual_seed(1)
    gate, up, _ = draw_expert({"hidden": 8, "inter": 8}, "bf16", g)
    with pytest.raises(FullboreError, match="as bf16 and as fp8_block"):
        CpuSwiglu("float32").pack(gate, up, draw_weight(8, 8, "fp8_block", g))


def test_packed_weights_take_the_room_of_the_stored_ones() -> None:
    """Codes stay codes; edges are padded and 64 bytes of a block of 8192 hold the factor of fp8."""
    g, shape = Generator().manual_seed(1), {"hidden": 256, "inter": 128}
    for format in FORMATS:
        kernel = CpuMoeFfn("bfloat16")
        packed = kernel.pack([draw_expert(shape, format, g) for _ in range(4)], 4)
        assert packed_bytes(packed) <= 1.01 * 4 * expert_bytes(shape, format)


@ON_EACH
@pytest.mark.parametrize("scale", [0.0, 1e-39, 1e-37, 1e-30, 1e30])
def test_rows_of_any_size_are_quantised(isa: Isa, scale: float) -> None:
    """Zeros stay zeros, and a scale whose inverse would be no number is not taken."""
    g = Generator().manual_seed(4)
    x = (torch.randn(3, 300, generator=g) * scale).bfloat16()
    x[1] = 0
    kernel = CpuLinear("bfloat16", native_of(isa, 2))
    weight = draw_weight(70, 300, "int8", g)
    y, expected = kernel.run(kernel.pack(weight), x), OPERATORS["linear"].reference((weight,), x)
    assert bool((y[1] == 0).all())
    assert float((y.float() - expected).abs().max()) <= 0.05 * float(x.float().abs().max()) + 1e-38


@pytest.mark.parametrize("together", [1, 2, 5])
def test_experts_are_asked_for_in_order_and_a_few_at_a_time(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for some says that those before are packed, and their memory may go."""
    g = Generator().manual_seed(1)
    count, shape = 5, {"hidden": 16, "inter": 8}
    stored = [draw_expert(shape, "bf16", g) for _ in range(count)]
    kernel, lazy = CpuMoeFfn("float32"), _Forgetful(stored)
    packed = kernel.pack(stored, count)
    monkeypatch.setattr(moe, "_TOGETHER_BYTES", together * packed_bytes(packed) // count)
    assert torch.equal(kernel.pack(lazy, count).memory, packed.memory)
    assert lazy.asked == [0, *range(count)]


class _Forgetful(Sequence[Any]):
    """What was handed out is gone when more is asked for."""

    def __init__(self, stored: Sequence[Any]) -> None:
        self.stored, self.asked = stored, list[int]()

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Any) -> Any:
        for number in self.asked[1:]:  # the first is asked for twice, to see its shape
            for weight in self.stored[number]:
                weight.data.fill_(float("nan"))
        numbers = range(*index.indices(len(self))) if isinstance(index, slice) else [index]
        self.asked += numbers
        return [self.stored[number] for number in numbers] if isinstance(index, slice) else self.stored[index]


@ON_EACH
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_batches_equal_the_reference_too(isa: Isa, dtype: str) -> None:
    """More rows than one chunk, also of a single expert."""
    g = Generator().manual_seed(5)
    operator = OPERATORS["moe_ffn"]
    shape = {"tokens": 600, "hidden": 72, "inter": 40, "experts": 2, "k": 1, "shared": 72}
    case = operator.draw(shape, "skewed", "fp8_block", DTYPES[dtype], g)
    kernel = CpuMoeFfn(dtype, native_of(isa, 2))
    output = kernel.run(kernel.pack(*case.weights), *case.inputs)
    error = operator.error(output, operator.reference(case.weights, *case.inputs))
    assert error <= operator.limit("fp8_block", dtype)
