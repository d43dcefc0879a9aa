"""Rows of the latent cache: what a format keeps, what it costs, and that a token's row is its own."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from fullbore.ops.cache import GROUP, CacheRow
from fullbore.ops.contract import DTYPES
from fullbore.ops.formats import E4M3_MAX
from fullbore.ops.latents import LATENTS

BITS = (0, 8, 16)
rows = st.builds(CacheRow, st.integers(1, 300), st.integers(1, 40), st.sampled_from(BITS))
fp8_rows = st.builds(CacheRow, st.integers(1, 300), st.integers(1, 40), st.just(8))
types = st.sampled_from([*DTYPES.values()])


def token_values(row: CacheRow, tokens: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents and keys whose sizes span decades, from token to token and within one."""
    g = Generator().manual_seed(seed)
    spread = 10.0 ** (6 * torch.rand(tokens, 1, generator=g) - 3)
    latent = torch.randn(tokens, row.latent, generator=g).pow(3) * spread
    return latent.to(dtype), torch.randn(tokens, row.rope, generator=g).to(dtype)


def in_groups(row: CacheRow, values: Tensor) -> Tensor:
    """[tokens, latent] -> [tokens, groups, GROUP], zeros appended."""
    return torch.nn.functional.pad(values, (0, row.groups * GROUP - row.latent)).unflatten(-1, (-1, GROUP))


def test_the_published_sizes() -> None:
    sizes = {bits: CacheRow(512, 64, bits).bytes("bfloat16") for bits in BITS}
    assert sizes == {0: 1152, 8: 512 + 16 + 128, 16: 1152}
    assert [CacheRow(512, 64, bits).bytes("float32") for bits in BITS] == [2304, 656, 1152]


@given(rows, types, st.integers(1, 9), st.integers(1, 5))
def test_a_cache_holds_rows_of_the_stated_size(row: CacheRow, dtype: Any, pages: int, size: int) -> None:
    cache = row.empty(pages, size, dtype)
    encoded = row.encode(*token_values(row, pages * size, dtype))
    assert cache.shape == (pages, size, row.width)
    assert encoded.shape == (pages * size, row.width)
    assert cache.dtype is encoded.dtype is row.type(dtype)
    name = next(name for name, each in DTYPES.items() if each is dtype)
    assert cache.nbytes == pages * size * row.bytes(name)


@given(rows, types)
def test_decoded_values_are_exact_in_bfloat16_and_survive_another_writing(row: CacheRow, dtype: Any) -> None:
    encoded = row.encode(*token_values(row, 7, dtype))
    decoded = row.decode(encoded)
    if row.bits:
        assert torch.equal(row.decode(encoded, torch.bfloat16).float(), decoded)
    again = row.encode(decoded[:, : row.latent].to(dtype), decoded[:, row.latent :].to(dtype))
    assert torch.equal(row.decode(again), decoded)


@given(rows.filter(lambda row: row.bits != 8), types)
def test_rows_of_values_are_those_values(row: CacheRow, dtype: Any) -> None:
    latent, rope = token_values(row, 5, dtype)
    values = torch.cat([latent, rope], dim=-1)
    assert torch.equal(row.decode(row.encode(latent, rope)), values.to(row.type(dtype)).float())


@given(fp8_rows, types)
def test_what_fp8_costs(row: CacheRow, dtype: Any) -> None:
    """Half a step of e4m3: 2^-4 of a value, or of the group's largest times 2^-10 / 224 where it is tiny."""
    latent, rope = token_values(row, 7, dtype)
    decoded = row.decode(row.encode(latent, rope))
    values, found = (in_groups(row, part) for part in (latent.float(), decoded[:, : row.latent]))
    largest = values.abs().amax(-1, keepdim=True)
    assert bool(((values - found).abs() <= torch.maximum(values.abs() / 16, largest * 2**-10 / 224)).all())
    assert torch.equal(decoded[:, row.latent :], rope.bfloat16().float())


@given(fp8_rows, types)
def test_fp8_codes_are_the_nearest_and_use_the_range(row: CacheRow, dtype: Any) -> None:
    latent, rope = token_values(row, 5, dtype)
    encoded = row.encode(latent, rope)
    codes = in_groups(row, encoded[:, : row.latent].contiguous().view(torch.float8_e4m3fn).float())
    factors = encoded[:, row.latent : row.latent + 4 * row.groups].contiguous().view(torch.float32)
    assert bool((torch.frexp(factors).mantissa == 0.5).all())  # powers of two
    top = codes.abs().amax(-1)
    assert float(top.max()) <= E4M3_MAX
    assert bool((top >= E4M3_MAX / 2).all())
    expected = (in_groups(row, latent.float()) / factors[..., None]).to(torch.float8_e4m3fn).float()
    assert torch.equal(codes, expected)


@given(rows, types, st.data())
def test_a_row_depends_on_its_token_alone(row: CacheRow, dtype: Any, data: st.DataObject) -> None:
    latent, rope = token_values(row, 6, dtype)
    whole = row.encode(latent, rope)
    picks = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=9)))
    assert torch.equal(row.encode(latent[picks], rope[picks]), whole[picks])
    assert torch.equal(row.decode(whole[picks]), row.decode(whole)[picks])


@given(rows, types, st.integers(0, 99))
def test_rounding_bounds_what_is_lost_and_not_much_more(row: CacheRow, dtype: Any, seed: int) -> None:
    latent, rope = token_values(row, 7, dtype, seed)
    values = torch.cat([latent, rope], dim=-1).float()
    lost, bound = (row.decode(row.encode(latent, rope)) - values).abs(), row.rounding(values)
    assert bool((lost <= bound).all())
    least = in_groups(row, values[:, : row.latent]).abs().amax(-1).repeat_interleave(GROUP, -1) * 2**-17
    share = {0: 0.0, 8: 2**-4, 16: 2**-8}[row.bits]
    assert bool(
        (bound <= values.abs() * share + (least.amax(-1, keepdim=True) if row.bits == 8 else 0)).all()
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_latents_are_held_to_the_nearest_codes(bits: int) -> None:
    """What the format rounds away is no error; another code, or another row's, is one."""
    shape = {"tokens": 9, "q": 0, "latent": 133, "rope": 6, "kv_bits": bits}
    case = LATENTS.draw(shape, "random", "none", torch.float32, Generator().manual_seed(3))
    expected = LATENTS.reference(case.weights, *case.inputs)
    _, values, row = expected
    flat = values.view(-1, 139)
    cache = row.encode(flat[:, :133], flat[:, 133:]).view(*values.shape[:2], -1)
    assert LATENTS.error((expected[0], cache), expected) == 0
    for at in (0, 132):  # bytes or values of the first row: two steps away
        wrong = cache.clone()
        wrong.view(-1, row.width).view(torch.int8 if bits == 8 else torch.int16)[0, at] += 2
        assert LATENTS.error((expected[0], wrong), expected) > LATENTS.limit("none", "float32")
    assert LATENTS.error((expected[0], cache.roll(1, 0)), expected) > 0.1


@given(rows, types, st.data(), st.sampled_from([float("nan"), float("inf"), float("-inf")]))
def test_what_is_not_finite_stays_visible_where_it_is(
    row: CacheRow, dtype: Any, data: st.DataObject, poison: float
) -> None:
    latent, rope = token_values(row, 3, dtype)
    clean = row.decode(row.encode(latent, rope))
    at = data.draw(st.integers(0, row.latent + row.rope - 1))
    (latent if at < row.latent else rope)[1, at if at < row.latent else at - row.latent] = poison
    decoded = row.decode(row.encode(latent, rope))
    assert not bool(decoded[1, at].isfinite())
    hit = torch.zeros(row.latent + row.rope, dtype=torch.bool)
    hit[at] = True
    if row.bits == 8 and at < row.latent:
        hit[: row.latent] = torch.arange(row.latent) // GROUP == at // GROUP
        assert bool(decoded[1, hit].isnan().all())
    assert torch.equal(decoded[1, ~hit], clean[1, ~hit])
    assert torch.equal(decoded[::2], clean[::2])


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 448.0, 449.0, 3e38])
def test_the_smallest_and_the_largest_latents(size: float) -> None:
    row = CacheRow(130, 2, 8)
    latent = torch.full((1, 130), size)
    decoded = row.decode(row.encode(latent, torch.ones(1, 2)))[:, :130]
    assert bool(((decoded - latent).abs() <= max(size / 16, 2**-109)).all())
