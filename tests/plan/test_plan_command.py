"""``fullbore plan``: what it prints, the commands it gives, and what it refuses."""

import json
import shlex
from typing import Any

import pytest

from fullbore import cli
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.layout import parse_layout
from fullbore.plan.demand import demand_of
from fullbore.plan.launch import launch, launchable
from fullbore.plan.space import Space, trials
from fullbore.plan.trial import Trial
from fullbore.scenario.scenario import load_scenario
from fullbore.steptime.network import RECIPES
from fullbore.steptime.profiles import find_profile

SMALL = "plan --server 8xMI300X --engine sglang --layout tp8 --kv fp8 --chunk 8192 --scenario dialog"
QUICK = f"{SMALL} --tpot 40ms --ttft 1s"  # few in flight


def told(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*arguments.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def way(layout: str, cache: str = "fp8", recipe: str = "fp8", drafts: int = 0) -> Trial:
    where, demand = find_server("8xMI300X"), demand_of(load_scenario("dialog"))
    space = Space([parse_layout(layout)], [RECIPES[recipe]], (cache,), (4096,), (96,), (drafts,), 0.8)
    found = next(
        trials(named_config(DEEPSEEK_V3), where, find_profile("sglang", where.device), space, [demand])
    )
    assert isinstance(found, Trial)
    return found


def test_the_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"{QUICK} --people 5000 --active 0.1 --requests-per-hour 12"
    found = told(asked, capsys)
    assert found == told(asked, capsys)
    assert found["chosen"]["layout"] == "tp8"
    (dialog,) = found["scenarios"]
    limits = dialog["scenario"]["limits"]
    assert limits == {"ttft_ms": 1000.0, "tpot_ms": 40.0, "percentile": "mean"}
    assert 0 < dialog["tpot_ms"]["mean"] <= 40
    assert 0 < dialog["ttft_ms"]["mean"] <= 1000
    best = dialog["best_concurrency"]
    assert best["sure"] <= best["concurrency"] == dialog["concurrency"] <= best["hoped"]
    (people,) = dialog["people"]
    assert people["servers"] * people["most"] >= 5000
    assert people["asked"]["inside"] >= found["requests_inside"] == 0.95
    assert found["peak"]["total_tok_s"]["mean"] > dialog["total_tok_s"]["mean"]


def test_the_page_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(QUICK, capsys)
    assert cli.main(QUICK.split()) == 0
    page = capsys.readouterr().out
    assert str(found["scenarios"][0]["concurrency"]) in page
    assert found["commands"][0]["command"].split()[0] in page
    assert "floor" in page
    assert "Rests on: 8 published rows" in page


def test_limits_are_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    loose = told(f"{SMALL} --tpot 45ms --ttft 1s", capsys)["scenarios"][0]["concurrency"]
    tight = told(f"{SMALL} --tpot 36ms --ttft 1s", capsys)["scenarios"][0]["concurrency"]
    worse = told(f"{SMALL} --tpot 45ms --ttft 1s --percentile p99", capsys)["scenarios"][0]["concurrency"]
    assert tight < loose
    assert worse <= loose


def flags(command: str) -> dict[str, str]:
    words = shlex.split(command)
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {word: "" if value.startswith("--") else value for word, value in pairs if word.startswith("--")}


def test_commands_say_what_was_planned() -> None:
    sglang = flags(launch("sglang", way("tp2ep4dp4"), 512).command)
    assert sglang["--tp-size"] == "8"
    assert sglang["--dp-size"] == "4"
    assert sglang["--ep-size"] == "4"
    assert "--enable-dp-attention" in sglang
    assert sglang["--kv-cache-dtype"] == "fp8_e4m3"
    assert sglang["--max-running-requests"] == "96"
    assert sglang["--chunked-prefill-size"] == "4096"
    vllm = flags(launch("vllm", way("tp2ep8dp4", "bf16"), 80).command)
    assert vllm["--tensor-parallel-size"] == "2"
    assert vllm["--data-parallel-size"] == "4"
    assert "--enable-expert-parallel" in vllm
    assert vllm["--kv-cache-dtype"] == "auto"
    assert vllm["--max-num-seqs"] == "20"
    assert vllm["--max-num-batched-tokens"] == "1024"
    plain = flags(launch("vllm", way("tp8"), 80).command)
    assert "--data-parallel-size" not in plain
    assert "--enable-expert-parallel" not in plain


def test_what_an_engine_cannot_be_told_is_said() -> None:
    for engine, trial, why in (
        ("vllm", way("tp8ep4"), "over all 8 devices or over none"),
        ("fullbore", way("ep8dp8"), "no data-parallel attention"),
        ("sglang", way("tp8", drafts=1), "MTP"),
    ):
        found = launch(engine, trial, 64)
        assert not found.command
        assert why in found.notes[0]
    fp4 = launch("sglang", way("tp8", recipe="fp4"), 64)
    assert "--model-path MODEL " in fp4.command
    assert "checkpoint in fp4" in fp4.notes[0]


def test_fullbores_own_command_is_one_that_it_parses() -> None:
    command = launch("fullbore", way("tp8"), 64).command
    known = cli_flags("serve")
    assert set(flags(command)) <= known
    assert set(launchable()) == {"sglang", "vllm", "fullbore"}


def cli_flags(verb: str) -> set[str]:
    from fullbore.flags import Parser
    from fullbore.server import command

    assert verb == "serve"
    parser = Parser()
    command.configure(parser)
    return {flag for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("plan --server 8xMI300", 2, "did you mean"),
        ("plan --server 3xMI300X", 2, "counts that do: 1, 2, 4"),
        ("plan --server 2xMI300X", 1, "fits into memory"),
        (f"{SMALL} --tpot 5ms", 1, "the floor"),
        (f"{SMALL} --tpot 5", 2, "with its unit"),
        (f"{SMALL} --scenario chat", 2, "closed loop"),
        (f"{SMALL} --layout tp4", 2, "needs 4 devices"),
        (f"{SMALL} --mtp 1", 2, "--acceptance"),
        (f"{SMALL} --kv fp7", 2, "bf16 or fp8"),
        (f"{SMALL} --weights fp9", 2, "unknown weights"),
        (f"{SMALL} --command llamacpp", 2, "sglang, vllm, fullbore"),
        (f"{SMALL} --inside 1", 2, "expected below 1"),
        (f"{SMALL} --people 0", 2, "whole number from 1"),
        (f"{SMALL} --active 10", 2, "a share above 0"),
    ],
)
def test_wrong_and_impossible_input(
    arguments: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == code
    assert said in capsys.readouterr().err
