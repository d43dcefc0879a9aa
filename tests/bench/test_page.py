"""The page: everything is in it, nothing breaks out of it, and a browser draws it without a network."""

import functools
import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_result_files import FILES, result

from fullbore.bench.read import read_results
from fullbore.results.page import MOST_ROWS, page
from fullbore.results.result import Result

HOSTILE = '</script><img src=x onerror="document.title=1"> <!-- \u2028 &amp; {{}}'
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
    ),
)


class Scripts(HTMLParser):
    """What stands in a page's scripts, and what its tags refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self._inside = True
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"


def parsed(text: str) -> Scripts:
    found = Scripts()
    found.feed(text)
    found.close()
    return found


def many() -> list[Result]:
    imported = [
        read
        for path in ("vllm_bench_serve", "guidellm")
        for read in read_results(str(FILES / f"{path}.json"))
    ]
    return [result(2), result(4), result(8, 0.05, 700), *imported]


def test_every_result_is_in_the_page_and_nothing_is_fetched() -> None:
    found = parsed(page(many(), "All of them"))
    assert found.links == ["data:,"]
    assert not {"img", "iframe", "object", "embed"} & set(found.tags)
    data = json.loads(found.texts[0])
    assert data["title"] == "All of them"
    assert [each["point"] for each in data["results"]] == [each.point for each in many()]
    assert len(data["results"][2]["requests"]["rows"]) <= MOST_ROWS < data["results"][2]["requests"]["of"]
    first = data["results"][0]
    assert first["figures"]["output"] == pytest.approx(many()[0].figures.output_tok_s)
    assert any("busy" in row[4] for row in first["requests"]["rows"])
    assert first["curves"]["ttft"][0][1] == 0
    assert first["curves"]["ttft"][-1][1] == 1


def test_no_text_breaks_out_of_the_data() -> None:
    asked = replace(result(2).scenario, name=HOSTILE, summary=HOSTILE)
    hostile = replace(result(2), scenario=asked, source=HOSTILE, tool=HOSTILE, ended_early=HOSTILE)
    found = parsed(page([hostile], HOSTILE))
    assert len(found.texts) == 2
    assert "img" not in found.tags
    data = json.loads(found.texts[0])
    assert data["title"] == data["results"][0]["scenario"] == HOSTILE


@functools.cache
def runs(browser: str) -> bool:
    """Whether this browser works at all here."""
    try:
        done = subprocess.run([browser, *QUIET, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome here to draw the page")
@pytest.mark.parametrize("hostile", [False, True])
def test_a_browser_draws_it(tmp_path: Path, hostile: bool) -> None:
    assert BROWSER is not None
    if not runs(BROWSER):
        pytest.skip(f"{BROWSER} does not start here")
    results = many()
    if hostile:
        results = [
            replace(each, scenario=replace(each.scenario, name=HOSTILE, summary=HOSTILE)) for each in results
        ]
    path = tmp_path / "page.html"
    path.write_text(page(results, "Drawn"), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER,
            *QUIET,
            # Every request that is not for a file goes to a port where nobody is.
            "--proxy-server=127.0.0.1:9",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    drawn = done.stdout
    assert 'data-drawn="' in drawn, "the script did not come to its end"
    assert int(drawn.split('data-drawn="')[1].split('"')[0]) >= 7
    assert "<title>Drawn</title>" in drawn
    assert "2 in flight" in drawn
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
