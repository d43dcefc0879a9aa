"""``fullbore plan``: what it prints, the commands it gives, and what it refuses."""

import json
from typing import Any

import pytest

from fullbore import cli

SMALL = "plan --server 8xMI300X --engine sglang --layout tp8 --kv fp8 --chunk 8192 --scenario dialog"
QUICK = f"{SMALL} --tpot 40ms --ttft 1s"  # few in flight


def told(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*arguments.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
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


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("plan", 2, "--server is missing"),
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
