"""The page of a plan and of a point: it holds what the plan says, and a browser draws all of it."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Opened, open_page
from fullbore import cli, flags
from fullbore.cli import VERBS

QUICK = (
    "plan --server 8xMI300X --engine sglang --layout tp8 --kv fp8 --chunk 8192 --scenario dialog "
    "--tpot 40ms --ttft 1s --command sglang,vllm"
)
POINT = (
    "plan point --server 8xMI325X --engine sglang --kv fp8 --input 512 --output 64 --length-range 0.8 "
    "--concurrency 8"
)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    for name, asked in (("plan", QUICK), ("point", POINT)):
        assert cli.main([*asked.split(), "--json", "--html", str(folder / f"{name}.html")]) == 0
    return folder


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'type="application/json">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_plans_page_says_what_its_json_says(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_of(pages / "plan.html")
    assert cli.main([*QUICK.split(), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (part,), (scenario,) = data["parts"], told["scenarios"]
    for name in ("tpot_ms", "ttft_ms", "output_tok_s", "total_tok_s", "concurrency"):
        assert part["at"][name] == scenario[name]
    assert part["best"] == scenario["best_concurrency"]
    assert dict(part["split"]) == pytest.approx({k: v for k, v in scenario["tpot_parts_ms"].items() if v > 0})
    assert sum(ms for _, ms in part["split"]) == pytest.approx(part["at"]["tpot_ms"]["mean"])
    assert part["changes"] == scenario["changes"]
    assert data["launches"] == told["commands"]
    counts = [each["concurrency"] for each in part["curve"]]
    assert counts == sorted(set(counts))
    assert part["best"]["concurrency"] in counts
    assert counts[0] == 1
    memory = data["memory"]
    assert sum(size for _, size in memory["parts"]) == pytest.approx(memory["device_bytes"])
    assert {each["mark"] for each in data["figures"]} <= {"vendor", "measured", "scaled", "assumed"}


def test_the_commands_that_follow_are_ones_that_fullbore_knows(pages: Path) -> None:
    for name in ("plan", "point"):
        lines = [
            line for step in data_of(pages / f"{name}.html")["steps"] for line in step["command"].split("\n")
        ]
        assert len(lines) >= 4
        for line in lines:
            _, *words = shlex.split(line)
            verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
            parser = cli._parser(verb, cli._load(VERBS[verb]))
            flags.parse(parser, words[len(verb.split()) :], {})
    (first, *_) = data_of(pages / "point.html")["steps"]
    assert cli.main([*shlex.split(first["command"])[1:], "--json"]) == 0


def opened(path: Path, profile: Path) -> Opened:
    found = open_page(path, profile)
    assert found.console == ()
    assert found.requests == ()
    return found


def shown(found: Opened) -> str:
    """What the script made, without the script."""
    return found.dom.split("<script")[0]


@needs_browser
def test_a_browser_draws_all_of_a_plan(pages: Path, tmp_path: Path) -> None:
    found = opened(pages / "plan.html", tmp_path / "profile")
    labels = set(re.findall(r'aria-label="([^"]*)"', found.dom))
    assert labels >= {
        "Output against requests in flight, dialog",
        "TPOT against requests in flight, dialog",
        "TTFT against requests in flight, dialog",
        "Pareto front of dialog",
        "Parts of the TPOT",
        "Changes for dialog",
        "Memory of a device",
        "people, dialog",
    }
    assert not re.search("NaN|undefined|Infinity", shown(found))
    for launch in data_of(pages / "plan.html")["launches"]:
        assert launch["command"] in shown(found)


@needs_browser
def test_a_browser_draws_all_of_a_point(pages: Path, tmp_path: Path) -> None:
    found = opened(pages / "point.html", tmp_path / "profile")
    assert found.drawn >= 9
    assert not re.search("NaN|undefined|Infinity", shown(found))


def test_without_scripts_the_figures_are_text(pages: Path) -> None:
    text = (pages / "plan.html").read_text(encoding="utf-8")
    plain = text.split("<noscript>")[1].split("</noscript>")[0]
    assert "inside its limits" in plain
    assert "if it had" in plain


@pytest.mark.parametrize("asked", [QUICK, POINT])
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_planned(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, named in ((tmp_path, "is a folder"), (tmp_path / "none" / "p.html", "there is no folder")):
        assert cli.main([*asked.split(), "--html", str(path)]) == 2
        assert named in capsys.readouterr().err
