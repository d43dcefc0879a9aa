"""The memory plan: against what the engine allocates, and nothing lost by cutting."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.hardware.servers import find_server
from fullbore.model.load import load_model
from fullbore.model.locate import locate
from fullbore.model.make_checkpoint import config_fields, make_checkpoint
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.model.share import held_specs
from fullbore.model.specs import tensor_specs
from fullbore.parallel.collectives import Links
from fullbore.parallel.layout import Layout, parse_layout, possible_layouts
from fullbore.parallel.rank import Rank, Role
from fullbore.plan.memory import activation_bytes, cache_token_bytes, memory
from fullbore.plan.weights import EXPERTS, on_accelerators, on_cpus, weight_bytes
from fullbore.steptime.model import Setting
from fullbore.steptime.network import RECIPES

CONFIG = named_config(DEEPSEEK_V3)
LAYOUTS = st.sampled_from(
    [layout for count in (1, 2, 4, 8, 16) for layout in possible_layouts(CONFIG, count)]
)
recipes = st.sampled_from(list(RECIPES.values()))


def setting(layout: Layout, recipe: str = "fp8", server: str = "mi300x") -> Setting:
    return Setting(CONFIG, find_server(f"{layout.devices}x{server}"), layout, RECIPES[recipe], "bf16")


def test_the_published_sizes() -> None:
    # 672.99 GB of main model; kv_b is kept in bf16, which doubles its 1.02 GB.
    whole = weight_bytes(CONFIG, Layout(), on_accelerators(RECIPES["fp8"]))
    assert sum(whole.values()) / 1e9 == pytest.approx(672.99 + 1.02, rel=1e-3)
    eighth = weight_bytes(CONFIG, Layout(tp=8), on_accelerators(RECIPES["fp8"]))
    assert sum(eighth.values()) / 1e9 == pytest.approx(85.1, rel=3e-3)
    assert cache_token_bytes(CONFIG, "bf16") == 70272
    assert cache_token_bytes(CONFIG, "fp8", scaled=True) == 40016  # docs/benchmarks.md


@given(LAYOUTS, recipes)
def test_devices_together_hold_all_of_every_part(layout: Layout, recipe: object) -> None:
    keeping = on_accelerators(recipe)  # type: ignore[arg-type]
    part = weight_bytes(CONFIG, layout, keeping, True)
    whole = weight_bytes(CONFIG, Layout(), keeping, True)
    for name, size in part.items():
        assert size * layout.devices >= whole[name] * (1 - 1e-9)
    assert part[EXPERTS] * layout.devices == pytest.approx(whole[EXPERTS])


@pytest.mark.parametrize("weights", ["stored", "bf16", "int8", "int4", "int4_g128"])
@pytest.mark.parametrize("model", ["tiny", "demo"])
def test_the_engine_allocates_what_was_planned(model: str, weights: str, tmp_path: Path) -> None:
    folder = locate("demo")
    if model == "tiny":
        folder = tmp_path / "tiny"
        make_checkpoint(folder, config_fields("tiny"))
    loaded = load_model(folder, "bfloat16", weights=weights)
    planned = weight_bytes(loaded.config, Layout(), on_cpus(loaded.config, weights), mtp=True)
    assert sum(planned.values()) == pytest.approx(loaded.bytes, rel=0.02)


@given(LAYOUTS)
def test_one_rank_holds_what_was_planned(layout: Layout) -> None:
    """To the byte, of every rank whose parts are equal."""
    keeping = on_accelerators(RECIPES["fp8"])
    config = replace(CONFIG, num_hidden_layers=4)  # one of experts; there are 45,000 tensors in all
    specs = {name: spec for name, spec in tensor_specs(config).items() if not spec.optional}
    held = held_specs(specs, config, Role(Rank(layout, layout.devices - 1)))
    sizes = [
        keeping.matrix_bytes(spec, *spec.shape) if len(spec.shape) == 2 else 2 * spec.elements
        for spec in held.values()
    ]
    assert sum(sizes) == sum(weight_bytes(config, layout, keeping, mtp=True).values())


@pytest.mark.parametrize("text", ["tp2", "ep4dp4", "tp2ep4dp2", "tp4ep4"])
@pytest.mark.parametrize("layers", [0, 2])
def test_one_rank_allocates_what_was_planned(text: str, layers: int, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    sizes = ["hidden_size=512", "moe_intermediate_size=256", "intermediate_size=512", "num_hidden_layers=2"]
    (folder / "config.json").write_text(json.dumps(config_fields("tiny", sizes)))
    layout = parse_layout(text)
    role = Role(Rank(layout, 1, Links(layout.devices, "mesh", 1e12, 1e-6)), layers)
    loaded = load_model(folder, "bfloat16", role=role, random=True)
    planned = weight_bytes(loaded.config, layout, on_cpus(loaded.config), mtp=True)
    assert sum(planned.values()) == pytest.approx(loaded.bytes, rel=0.02)


@pytest.mark.parametrize("cache", ["bf16", "fp8"])
def test_the_engine_caches_what_was_planned(cache: str) -> None:
    loaded = load_model(locate("demo"), "bfloat16", kv_cache_dtype=cache)
    allocated = sum(layer.nbytes for layer in loaded.new_cache(3, 16))
    assert allocated == 3 * 16 * cache_token_bytes(loaded.config, cache, scaled=True)


@given(LAYOUTS, st.integers(128, 32768))
def test_a_larger_chunk_leaves_less_cache(layout: Layout, chunk: int) -> None:
    small, large = (memory(setting(layout), 0.9, tokens) for tokens in (chunk, 2 * chunk))
    assert large.workspace_bytes > small.workspace_bytes
    assert large.cache_tokens <= small.cache_tokens
    assert activation_bytes(setting(layout), 2 * chunk) <= 2.01 * activation_bytes(setting(layout), chunk)


@given(LAYOUTS, st.floats(0.3, 1.0))
def test_memory_adds_up(layout: Layout, share: float) -> None:
    found = memory(setting(layout, server="mi355x"), share)
    parts = found.weight_bytes + found.workspace_bytes + found.cache_bytes + found.reserve_bytes
    assert parts == pytest.approx(found.device_bytes)
    held = found.cache_tokens / layout.dp * found.cache_token_bytes
    assert held <= max(0.0, found.cache_bytes)
    assert all(count * tokens <= found.cache_tokens for tokens, count in found.largest(163840).items())
