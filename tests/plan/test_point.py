"""``fullbore plan point``: what it prints, what it refuses, and that more hardware never hurts."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore import cli
from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.layout import parse_layout
from fullbore.plan.closed_loop import Load
from fullbore.plan.memory import memory
from fullbore.plan.point import Point, accepted_tokens, predict
from fullbore.steptime.model import Setting
from fullbore.steptime.network import RECIPES
from fullbore.steptime.profiles import engine_names, find_profile

CONFIG = named_config(DEEPSEEK_V3)
ASKED = (
    "plan point --server 8xmi325x --engine sglang@0.5.9 --weights fp8 --kv fp8 --layout tp8 --input 8192 "
    "--output 1024 --length-range 0.8 --concurrency 64"
)


def point(
    server: str, concurrency: int, engine: str = "sglang", tokens: tuple[int, int] = (1024, 256)
) -> Point:
    where = find_server(server)
    return predict(
        Setting(CONFIG, where, parse_layout(f"tp{where.count}"), RECIPES["fp8"], "fp8"),
        find_profile(engine, where.device),
        Load(*tokens, 0.8, concurrency, 4 * concurrency),
    )


def told(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*arguments.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main(arguments.split())
    return code, capsys.readouterr().err


def test_the_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(ASKED, capsys)
    for name in ("tpot_ms", "ttft_ms", "output_tok_s", "total_tok_s"):
        assert 0 < found[name]["p10"] < found[name]["mean"] < found[name]["p90"]
    assert found["memory"]["weight_bytes"] == pytest.approx(85.1e9, rel=0.01)
    assert found["limited_by"] in found["tpot_parts_ms"]
    assert sum(found["tpot_parts_ms"].values()) == pytest.approx(found["tpot_ms"]["mean"], rel=0.02)
    assert found["floor_ms"] < found["tpot_ms"]["mean"]
    assert found["profile"]["epoch"] == "0.5.9"
    assert found["profile"]["basis"] == "architecture"  # MI300X has rows, this device has none
    # Little's law, with the ramp and the drain of ten requests a slot.
    output = found["output_tok_s"]["mean"] / (0.9 * 1024)
    latency_s = found["ttft_ms"]["mean"] / 1e3 + found["tpot_ms"]["mean"] / 1e3 * (0.9 * 1024 - 1)
    assert 0.9 < output * latency_s / 64 <= 1.0


def test_the_same_question_has_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(ASKED, capsys) == told(ASKED, capsys)


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ASKED.split(), "--engine", "sglang@0.5.11"]) == 0
    page = capsys.readouterr().out
    for words in (
        "8xMI325X · SGLang 0.5.9",
        "TPOT",
        "expert weights",
        "floor",
        "Rests on",
        "no rows of SGLang 0.5.11",
    ):
        assert words in page


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("--server 8xmi301x", 2, "did you mean MI30"),
        ("--server mi300x", 2, "did you mean 8xMI300X?"),
        ("--server 3xmi300x", 2, "128 heads"),
        ("--server 0xmi300x", 2, "0 devices"),
        ("--layout ep3dp8", 2, "ep3"),
        ("--layout tp4", 2, "needs 4 devices"),
        ("--engine sglong", 2, "did you mean sglang?"),
        ("--engine trtllm", 2, "no profile of TensorRT-LLM on MI325X"),
        ("--weights fp9", 2, "did you mean fp8?"),
        ("--kv int3", 2, "invalid choice"),
        ("--output 1", 2, "2 to"),
        ("--length-range 1.5", 2, "expected a share"),
        ("--input 200000", 2, "163840 positions"),
        ("--concurrency 0", 2, "'0'"),
        ("--config v3-layr", 2, "did you mean v3-layer?"),
        ("--config v3-layer --mtp 1", 2, "no MTP layer"),
        ("--server 8xh100", 1, "--server 16xH100 --layout tp16"),
        ("--server 8xh20 --kv bf16 --memory-fraction 0.9", 1, "--memory-fraction 0.97"),
        ("--server 1xmi355x --layout tp1", 1, "--server 4xMI355X --layout tp4"),
    ],
)
def test_what_cannot_be_says_what_can(
    arguments: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, error = refused(f"{ASKED} {arguments}", capsys)
    assert got == code
    assert words in error


def test_other_layouts_and_drafts(capsys: pytest.CaptureFixture[str]) -> None:
    plain = told(ASKED, capsys)
    spread = told(f"{ASKED} --layout ep8dp8", capsys)
    assert spread["memory"]["cache_tokens"] > 5 * plain["memory"]["cache_tokens"]
    drafted = told(f"{ASKED} --mtp 1 --acceptance 0.85", capsys)
    assert drafted["tpot_ms"]["mean"] < plain["tpot_ms"]["mean"]


def test_more_memory_is_used_where_that_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """Four B200 hold the weights in FP8, as do eight H20 with 96 GB, but not with a tenth kept free."""
    assert told(ASKED, capsys)["memory"]["used_share"] == 0.9
    four = told(f"{ASKED} --server 4xb200 --layout tp4", capsys)
    assert four["memory"]["used_share"] == 0.97
    assert told(f"{ASKED} --server h20-768g", capsys)["memory"]["used_share"] == 0.97


def test_drafts_are_accepted_up_to_the_first_refusal() -> None:
    assert accepted_tokens(0, 0.8) == 1
    assert accepted_tokens(3, 1.0) == 4
    assert accepted_tokens(2, 0.5) == 1.75


def test_every_engine_has_every_device_it_runs_on() -> None:
    for device in catalogue():
        for engine in engine_names():
            if engine == "trtllm" and device.vendor != "nvidia":
                continue
            profile = find_profile(engine, device)
            assert 0 < profile.factors.memory <= 1
            assert 0.02 < profile.deviation.step < profile.deviation.ttft < 1


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["8xMI300X", "8xH200", "8xB200", "8xMI355X"]), st.integers(1, 300), st.integers(1, 3))
def test_more_in_flight_is_slower_for_each_and_faster_for_all(server: str, few: int, factor: int) -> None:
    less, more = point(server, few), point(server, few * (1 + factor))
    assert more.tpot_ms.mean >= less.tpot_ms.mean * 0.99
    assert more.output_tok_s.mean >= less.output_tok_s.mean * 0.99


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 200), st.integers(64, 2000))
def test_longer_prompts_are_slower(concurrency: int, tokens: int) -> None:
    """Four times as long: less may only shift which prompts fall into one step, by some percent."""
    short = point("8xH200", concurrency, tokens=(tokens, 128))
    long = point("8xH200", concurrency, tokens=(4 * tokens, 128))
    assert long.ttft_ms.mean > short.ttft_ms.mean * 0.95
    assert long.tpot_ms.mean > short.tpot_ms.mean * 0.97


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 256))
def test_the_same_chip_with_more_bandwidth_is_faster(concurrency: int) -> None:
    assert point("8xMI325X", concurrency).tpot_ms.mean < point("8xMI300X", concurrency).tpot_ms.mean
    assert point("8xMI300X", concurrency).tpot_ms.mean <= point("8xMI308X", concurrency).tpot_ms.mean
    assert point("8xH200", concurrency).tpot_ms.mean < point("8xH20-141G", concurrency).tpot_ms.mean


def test_room_for_the_cache_is_what_engines_report() -> None:
    """0.9 of memory, tp8, bf16: 1.21 M tokens on MI300X, 552 k on H200, less than nothing on H20-96G."""

    def tokens(server: str) -> int:
        setting = Setting(CONFIG, find_server(server), parse_layout("tp8"), RECIPES["fp8"], "bf16")
        return memory(setting, 0.9).cache_tokens

    assert tokens("8xMI300X") == pytest.approx(1.21e6, rel=0.01)
    assert tokens("8xH200") == pytest.approx(552e3, rel=0.01)
    assert tokens("8xH20-96G") == 0
