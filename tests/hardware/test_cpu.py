"""What Linux says of the processor, and what a fingerprint makes of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.hardware.ceiling import Ceiling, Probes, torch_probes
from fullbore.hardware.cpu import (
    USUAL_CACHE_BYTES,
    best_dtype,
    cpu_flags,
    cpu_model,
    last_level_cache_bytes,
)
from fullbore.hardware.fingerprint import differences, digest, machine_fingerprint
from fullbore.ops.operators import OPERATORS

CPUINFO = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu sse2 avx512f avx512_bf16
"""
values = st.dictionaries(st.sampled_from("abcd"), st.text("xyz", max_size=3))


def test_the_processor_is_told_apart_from_its_namesakes(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert cpu_model(tmp_path / "cpuinfo") == "AMD EPYC (25/17/1)"
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "sse2", "avx512f", "avx512_bf16"}
    assert best_dtype(cpu_flags(tmp_path / "cpuinfo")) == "bfloat16"
    assert cpu_model(tmp_path / "none")
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_the_largest_cache_is_the_last(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "32M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_cache_bytes(tmp_path) == 32 << 20
    assert last_level_cache_bytes(tmp_path / "none") == USUAL_CACHE_BYTES


@given(values, values)
def test_equal_fingerprints_have_one_digest_and_no_differences(
    one: dict[str, str], two: dict[str, str]
) -> None:
    assert (digest(one) == digest(two)) == (one == two) == (not differences(one, two))
    assert digest(one) == digest(dict(reversed(one.items())))


def test_this_machine_has_a_fingerprint() -> None:
    assert machine_fingerprint(2) == machine_fingerprint(2)
    (unlike,) = differences(machine_fingerprint(2), machine_fingerprint(4))
    assert unlike == "threads 4 there, 2 here"


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_floor_is_the_higher_of_two(flops: int, bytes: int) -> None:
    ceiling = Ceiling(1e9, {"float32": 1e10})
    floor = ceiling.floor_us(flops, bytes, "float32")
    assert floor == pytest.approx(max(1e6 * flops / 1e10, 1e6 * bytes / 1e9))
    assert (ceiling.bound(flops, bytes, "float32") == "flops") == (flops / 1e10 > bytes / 1e9)


def test_probes_find_some_speed() -> None:
    ceiling = torch_probes().measure()
    assert ceiling.read > 0
    assert set(ceiling.flops) == {"float32", "bfloat16"}
    assert min(ceiling.flops.values()) > 0


def test_products_of_whole_numbers_have_their_own_ceiling_where_one_was_measured() -> None:
    with_it = Ceiling(1e9, {"float32": 1e10, "bfloat16": 2e10, "int8": 4e10})
    without = Ceiling(1e9, {"float32": 1e10, "bfloat16": 2e10})
    assert with_it.floor_us(10**9, 0, "int8") == pytest.approx(1e6 / 40)
    assert without.floor_us(10**9, 0, "int8") == without.floor_us(10**9, 0, "bfloat16")
    assert with_it.describe().endswith("40 GFLOP/s in int8")
    assert without.describe().endswith("int8 not measured")
    assert Probes(lambda: 1e9, lambda kind: None if kind == "int8" else 1e10).measure() == Ceiling(
        1e9, {"float32": 1e10, "bfloat16": 1e10}
    )


@pytest.mark.parametrize("name", ["linear", "moe_ffn", "mla_decode"])
def test_an_operator_says_what_its_products_are_made_in(name: str) -> None:
    for dtype in ("float32", "bfloat16"):
        for format in ("bf16", "fp8_block", "int8", "int4_g32"):
            whole = format.startswith("int") and dtype == "bfloat16" and name != "mla_decode"
            assert OPERATORS[name].arithmetic(format, dtype) == ("int8" if whole else dtype)
