"""The step-time model: its floors, and what more of anything must do to a step."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.model.traffic import step_traffic
from fullbore.parallel.layout import Layout, parse_layout, possible_layouts
from fullbore.steptime.factors import Deviation, Factors
from fullbore.steptime.model import Setting, StepTime
from fullbore.steptime.network import RECIPES
from fullbore.steptime.step import Step, pairs

CONFIG = named_config(DEEPSEEK_V3)
FACTORS = Factors(
    memory=0.8, attention=0.8, gemm=0.4, link=0.6, passes=4.0, layer_us=100.0, eager_us=1000.0, hop_us=6.0,
    row_us=5.0, step_us=300.0, request_ms=100.0, tile=16,
)  # fmt: skip
SERVERS = st.sampled_from([f"8x{device.name}" for device in catalogue()])
LAYOUTS = st.sampled_from(possible_layouts(CONFIG, 8))
STEPS = st.builds(
    Step.of,
    st.lists(st.integers(1, 30_000), max_size=40),
    st.lists(st.tuples(st.integers(1, 8192), st.integers(0, 30_000)), max_size=4),
)


def model(
    server: str = "8xH200", layout: str = "tp8", factors: Factors = FACTORS, **more: object
) -> StepTime:
    setting = Setting(CONFIG, find_server(server), parse_layout(layout), RECIPES["fp8"])
    return StepTime(replace(setting, **more), factors, Deviation(0.1, 0.2))  # type: ignore[arg-type]


def decodes(count: int, context: int) -> Step:
    return Step.of([context] * count)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 600), st.integers(1, 300), LAYOUTS, st.integers(1, 4000))
def test_a_batch_above_the_largest_graph_waits_for_its_launches(
    count: int, captured: int, layout: Layout, context: int
) -> None:
    """``captured`` counts a group's sequences; launches bound a step from below and add nothing to it."""
    setting = Setting(CONFIG, find_server("8xMI300X"), layout, RECIPES["fp8"])
    replayed = StepTime(setting, FACTORS).seconds(decodes(count, context))
    found = StepTime(setting, FACTORS, captured=captured).seconds(decodes(count, context))
    launches_s = CONFIG.num_hidden_layers * FACTORS.eager_us * 1e-6
    assert found == (max(replayed, launches_s) if count > captured * layout.dp else replayed)


@pytest.mark.parametrize(
    ("server", "dialog_ms", "code_ms"),
    [
        ("8xMI300X", 17.2, 20.6),
        ("8xMI308X", 17.2, 20.6),
        ("8xH200", 19.0, 22.7),
        ("8xH20-96G", 22.8, 27.2),
        ("8xMI325X", 15.2, 18.2),
        ("8xMI355X", 11.4, 13.6),
        ("8xB200", 11.4, 13.6),
    ],
)
def test_floors_of_the_published_record(server: str, dialog_ms: float, code_ms: float) -> None:
    floors = [model(server).floor_s(decodes(158, 640)) * 1e3, model(server).floor_s(decodes(140, 2560)) * 1e3]
    # kv_b is counted in bf16, as engines keep it: 0.1 GB more than the table's.
    assert floors == pytest.approx([dialog_ms, code_ms], rel=0.01)


@given(st.integers(1, 600), st.integers(1, 20_000))
def test_the_floor_is_what_the_published_tensors_say(count: int, context: int) -> None:
    floor = model().floor_s(decodes(count, context))
    counted = step_traffic(CONFIG, count, context).device_bytes(8) / 4.8e12
    kept_bf16 = 61 * 16 * 256 * 512 / 4.8e12  # kv_b, which the checkpoint holds in FP8
    assert floor == pytest.approx(counted + kept_bf16, rel=2e-3)


@settings(max_examples=60, deadline=None)
@given(SERVERS, LAYOUTS, STEPS)
def test_the_kinds_add_up_to_the_step(server: str, layout: object, step: Step) -> None:
    if not step.decodes and not step.prefill_tokens:
        return
    cost = model(server, str(layout)).of(step)
    assert sum(cost.terms_s.values()) == pytest.approx(cost.time_s.mean)
    assert cost.time_s.mean == pytest.approx(model(server, str(layout)).seconds(step))
    assert all(seconds >= 0 for seconds in cost.terms_s.values())
    assert cost.time_s.p10 < cost.time_s.mean < cost.time_s.p90


@settings(max_examples=60, deadline=None)
@given(
    SERVERS, LAYOUTS, st.integers(1, 2000), st.integers(1, 20_000), st.integers(0, 500), st.integers(0, 5000)
)
def test_more_decodes_or_context_take_longer(
    server: str, layout: object, count: int, context: int, more: int, longer: int
) -> None:
    time = model(server, str(layout))
    here = time.seconds(decodes(count, context))
    assert time.seconds(decodes(count + more, context)) >= here * (1 - 1e-9)
    assert time.seconds(decodes(count, context + longer)) >= here * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(SERVERS, STEPS, st.integers(1, 8192), st.integers(0, 30_000))
def test_another_chunk_takes_longer(server: str, step: Step, new: int, before: int) -> None:
    more = msgspec.structs.replace(
        step,
        prefill_tokens=step.prefill_tokens + new,
        prefill_pairs=step.prefill_pairs + pairs(new, before),
        sampled=step.sampled + 1,
    )
    time = model(server)
    assert time.seconds(more) >= time.seconds(step) * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sampled_from(["memory", "attention", "gemm", "link"]), st.floats(0.1, 0.9))
def test_a_better_share_is_never_slower(step: Step, name: str, share: float) -> None:
    worse = model(factors=replace(FACTORS, **{name: share})).seconds(step)  # type: ignore[arg-type]
    better = model(factors=replace(FACTORS, **{name: min(1.0, share * 1.1)})).seconds(step)  # type: ignore[arg-type]
    assert better <= worse * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(SERVERS, st.integers(1, 500), st.integers(1, 20_000))
def test_no_decode_step_is_faster_than_its_floor(server: str, count: int, context: int) -> None:
    # Uneven routing touches fewer experts than the floor's even one, so the share of bandwidth allows for it.
    step = decodes(count, context)
    assert model(server).seconds(step) >= model(server).floor_s(step) * 0.95


def test_chunks_of_a_prompt_attend_to_as_many_keys_as_the_whole() -> None:
    assert pairs(300, 0) + pairs(700, 300) == pairs(1000, 0)


def test_fp8_cache_and_smaller_weights_are_faster() -> None:
    step = decodes(64, 4000)
    assert model(cache="fp8").seconds(step) < model().seconds(step)
    assert model("8xB200", recipe=RECIPES["fp4"]).seconds(step) < model("8xB200").seconds(step)


def test_drafting_costs_less_than_the_steps_it_saves() -> None:
    step = decodes(8, 1000)
    assert model().seconds(step) < model(drafts=1).seconds(step) < 2 * model().seconds(step)


def test_data_parallel_attention_pays_off_where_the_cache_weighs() -> None:
    short, long = decodes(8, 100), decodes(256, 20_000)
    assert model(layout="ep8dp8").seconds(long) < model(layout="tp8").seconds(long)
    assert model(layout="ep8dp8").seconds(short) > model(layout="tp8").seconds(short)


def test_one_prompt_is_computed_by_one_group() -> None:
    time = model(layout="ep8dp8")
    one, eight = Step.of(chunks=[(16384, 0)]), Step.of(chunks=[(2048, 0)] * 8)
    assert time.seconds(one) > 1.5 * time.seconds(eight)


def test_cut_matrix_units_are_used_better() -> None:
    """The H20 multiplies at 0.15 of the H200's peak; a long prompt takes less than the inverse of that."""
    prompt = Step.of(chunks=[(16384, 0)])
    ratio = model("8xH20-141G").seconds(prompt) / model("8xH200").seconds(prompt)
    assert 1.5 < ratio < 989 / 148
