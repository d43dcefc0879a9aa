"""One rank of a wider layout in its own process, asked as any server is: marked everywhere, and measured."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from conftest import serving
from fullbore import cli

MARK = "emulated rank 1/4 of ep4dp4; outputs are meaningless"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rank") / "log"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    flags = ["--random-weights", "--emulate-rank", "1/4", "--layout", "ep4dp4", "--links", "nvlink"]
    with serving(log, *flags, "--emulate-layers", "2", model="tiny") as url:
        yield url


def test_every_answer_carries_the_mark(url: str, log: Path) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    raw = client.completions.with_raw_response.create(
        model="tiny", prompt="one two three", max_tokens=9, extra_body={"ignore_eos": True}
    )
    assert raw.headers["x-fullbore-emulated"] == MARK
    usage = raw.parse().usage
    assert usage is not None
    assert usage.completion_tokens == 9
    assert client.models.retrieve("tiny").emulated == MARK  # type: ignore[attr-defined]
    told = log.read_text()
    notes = "random weights", "4 H200", "1.2 times the mean", "of 2 of them", "4 times its requests"
    for words in (MARK, *notes):
        assert words in told, words


def test_a_benchmark_reports_the_server_and_says_that_it_is_emulated(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    small = ["--scale", "1/64", "--requests", "8", "--concurrency", "2", "--json", str(path)]
    assert cli.main(["bench", url, *small]) == 0
    printed = capsys.readouterr().out
    assert MARK in printed
    assert "4 times what this one of its groups did" in " ".join(printed.split())
    (result,) = json.loads(path.read_text())["results"]
    assert (result["server"]["emulated"], result["server"]["groups"]) == (MARK, 4)
    figures = result["figures"]
    assert result["concurrency"] == figures["nominal_concurrency"] == 8
    assert figures["requests_ok"] == 8
    alone = figures["output_tokens"] / figures["duration_s"]
    assert figures["output_tok_s"] == pytest.approx(4 * alone)
    assert figures["littles_law"] < 1.1
    assert cli.main(["bench", "compare", str(path), str(path)]) == 0
    assert MARK in capsys.readouterr().out
