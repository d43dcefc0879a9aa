"""FP8 blocks: exact to read, bounded to write."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fullbore.errors import IntegrityError
from fullbore.ops.formats import (
    BLOCK,
    INTEGERS,
    Integer,
    Weight,
    dequantise_fp8_block,
    matrix_bytes,
    quantise_fp8_block,
)

SIZES = st.sampled_from([1, 5, 127, 128, 129, 200, 256, 300])


def test_every_code_reads_as_its_value() -> None:
    """e4m3fn: sign, 4 bits of exponent with bias 7, 3 of mantissa; subnormal below, nan at all ones."""
    codes = torch.arange(256, dtype=torch.uint8)
    values = dequantise_fp8_block(codes.view(torch.float8_e4m3fn)[None], torch.ones(1, 2), torch.float32)[0]
    for code, value in enumerate(values.tolist()):
        sign = -1.0 if code & 0x80 else 1.0
        exponent, mantissa = (code >> 3) & 15, code & 7
        if exponent == 15 and mantissa == 7:
            assert value != value
        else:
            expected = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa * 2.0**-9
            assert value == sign * expected


@given(SIZES, SIZES, st.integers(0, 9), st.sampled_from([1e-30, 1e-3, 1.0, 1e6]))
def test_writing_loses_a_sixteenth_of_a_value_and_little_of_small_ones(
    rows: int, columns: int, seed: int, size: float
) -> None:
    matrix = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight = quantise_fp8_block(matrix)
    assert weight.format == "fp8_block"
    assert weight.scale is not None
    assert weight.scale.shape == (-(-rows // BLOCK), -(-columns // BLOCK))
    factor = weight.scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]
    error = (weight.dequantise(torch.float32) - matrix).abs()
    assert bool((error <= matrix.abs() / 16 + factor * 2.0**-10 * 1.01).all())
    again = quantise_fp8_block(weight.dequantise(torch.float32))
    assert torch.equal(again.dequantise(torch.float32), weight.dequantise(torch.float32))


def test_a_block_of_zeros_stays_zero() -> None:
    matrix = torch.zeros(200, 130)
    matrix[150, 129] = 3.0
    weight = quantise_fp8_block(matrix)
    assert torch.equal(weight.dequantise(torch.float32), matrix)


@given(SIZES, SIZES)
def test_bytes_are_those_of_the_tensors(rows: int, columns: int) -> None:
    matrix = torch.zeros(rows, columns)
    for weight in (Weight(matrix), Weight(matrix.bfloat16()), quantise_fp8_block(matrix)):
        scale = 0 if weight.scale is None else weight.scale.nbytes
        assert matrix_bytes(rows, columns, weight.format) == weight.data.nbytes + scale


INTEGER = st.sampled_from(list(INTEGERS.values()))


@given(INTEGER, SIZES, SIZES, st.integers(0, 9), st.sampled_from([1e-30, 1e-3, 1.0, 1e6]))
def test_integers_lose_half_a_step_of_their_group(
    integer: Integer, rows: int, columns: int, seed: int, size: float
) -> None:
    matrix = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight = integer.quantise(matrix)
    assert weight.format == integer.format
    assert weight.scale is not None
    assert weight.scale.shape == (rows, -(-columns // integer.group))
    assert weight.data.abs().max() <= integer.largest
    step = weight.scale.float().repeat_interleave(integer.group, 1)[:, :columns]
    error = (weight.dequantise(torch.float32) - matrix).abs()
    # The factor is rounded to 2^-8 and may be too small by so much for the largest value of its group.
    assert bool((error <= step * (0.5 + integer.largest * 2.0**-8)).all())


@given(INTEGER, SIZES)
def test_integers_of_a_group_of_zeros_are_zero(integer: Integer, columns: int) -> None:
    matrix = torch.zeros(3, columns)
    matrix[1, -1] = -5.0
    weight = integer.quantise(matrix)
    assert weight.dequantise(torch.float32).count_nonzero() == 1


@given(INTEGER, SIZES, st.sampled_from([2, 4, 300]))
def test_bytes_of_integers_are_those_of_their_bits_and_factors(
    integer: Integer, rows: int, columns: int
) -> None:
    weight = integer.quantise(torch.zeros(rows, columns))
    assert weight.scale is not None
    assert (
        matrix_bytes(rows, columns, integer.format)
        == weight.data.numel() * integer.bits // 8 + weight.scale.nbytes
    )


@pytest.mark.parametrize("scale", [(1, 2), (2, 1), (2, 3), (3, 2), (4,)])
def test_a_scale_of_another_shape_is_an_error_that_names_both_shapes(scale: tuple[int, ...]) -> None:
    """Too few factors must not leave rows as they were found in memory."""
    data = torch.zeros(200, 130).to(torch.float8_e4m3fn)
    with pytest.raises(IntegrityError) as raised:
        Weight(data, torch.ones(scale)).dequantise(torch.float32)
    for word in ("200 x 130", str(scale), "(2, 2)"):
        assert word in str(raised.value)


@given(SIZES, SIZES, st.sampled_from([torch.float32, torch.bfloat16]))
def test_each_block_has_its_own_factor(rows: int, columns: int, dtype: torch.dtype) -> None:
    down, across = -(-rows // BLOCK), -(-columns // BLOCK)
    scale = torch.arange(1.0, 1 + down * across).view(down, across)
    ones = torch.ones(rows, columns).to(torch.float8_e4m3fn)
    values = dequantise_fp8_block(ones, scale, dtype)
    assert values.dtype == dtype
    for block in range(down):
        for column in range(across):
            part = values[block * BLOCK : (block + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
            assert bool((part == scale[block, column]).all())


def test_dequantising_leaves_the_stored_matrix_alone() -> None:
    """It is a view of the checkpoint's file: writing there would be a fault, or a spoilt model."""
    weight = quantise_fp8_block(torch.randn(130, 140))
    assert weight.scale is not None
    data, scale = weight.data.view(torch.uint8).clone(), weight.scale.clone()
    weight.dequantise(torch.float32)
    assert torch.equal(weight.data.view(torch.uint8), data)
    assert torch.equal(weight.scale, scale)
