"""The page: everything is in it, nothing breaks out of it, and a browser draws it without a network."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_result_files import FILES, result

from browser import CHROMIUM, open_page
from fullbore.bench.read import read_results
from fullbore.results.page import MOST_ROWS, page
from fullbore.results.result import Result

HOSTILE = '</script><img src=x onerror="document.title=1"> <!-- \u2028 &amp; {{}}'


class Scripts(HTMLParser):
    """What stands in a page's scripts, and what its tags refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.title = ""
        self._inside = False
        self._titled = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._titled = tag == "title"
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self._inside = True
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self._titled:
            self.title += data
        if self._inside:
            self.texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._titled = False
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
    assert found.title == "All of them"
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
    assert found.title == data["results"][0]["scenario"] == HOSTILE


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("hostile", [False, True])
def test_a_browser_draws_it(tmp_path: Path, hostile: bool) -> None:
    results = many()
    if hostile:
        results = [
            replace(each, scenario=replace(each.scenario, name=HOSTILE, summary=HOSTILE)) for each in results
        ]
    path = tmp_path / "page.html"
    path.write_text(page(results, "Drawn"), encoding="utf-8")
    opened = open_page(path, tmp_path / "profile")
    assert opened.drawn >= 7
    assert "<title>Drawn</title>" in opened.dom
    assert "2 in flight" in opened.dom
    assert opened.console == ()
