"""The page as a browser sees it: it draws every plot, fetches nothing, and no text breaks out of it."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from browser import CHROMIUM, open_page
from fullbore.bench.client import Target
from fullbore.bench.load import Load
from fullbore.bench.read import read_results
from fullbore.bench.report import result_of
from fullbore.results.page import page, write_page
from fullbore.results.result import Result
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.metrics import CANCELLED, Record, Spread
from fullbore.scenario.scenario import load_scenario

FILES = Path(__file__).with_name("files")
HOSTILE = "</script><img src=http://tracker.invalid/x onerror=alert(1)><!-- & \u2028 \"'"
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")


def result(concurrency: int = 4, count: int = 60, text: str = "m") -> Result:
    """A closed loop that is a little uneven, with one request that failed and one that was cancelled."""
    made = []
    for number in range(count):
        sent_s = number // concurrency * 0.5
        first_s = sent_s + 0.1 + 0.01 * (number % 7)
        chunks = tuple(first_s + (0.02 + 0.001 * (number % 5)) * each for each in range(10))
        made.append(Record(number, 4, 10, sent_s, chunks[-1], chunks, 4, 10))
    made.append(Record(count, 4, 10, 1.0, 1.5, outcome="http 503", error=text))
    made.append(Record(count + 1, 4, 10, 1.0, 1.6, (1.2, 1.3), 4, 2, outcome=CANCELLED))
    scenario = replace(load_scenario("dialog"), arrival=ClosedLoop(concurrency))
    target = Target("http://127.0.0.1:1", text, 100, 4096, "mock", "fp8")
    return result_of(scenario, concurrency, target, Load(tuple(made), Spread(3, 0.1, 0.1, 0.2, 0.3, 0.4)))


class Parsed(HTMLParser):
    """Every tag of a page with its attributes, and the text of the element that holds the data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") == "data"

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        self.data += data if self.inside else ""

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found


@settings(max_examples=30, deadline=None)
@given(st.text() | st.sampled_from([HOSTILE, "/*script*/", "/*data*/", "<!--<script>", "]]>"]))
def test_no_text_breaks_out_of_the_page(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    parsed = Parsed(page([replace(result(), ended_early=text, remarks=(text,), tool=text)], text))
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in Parsed(page([result()])).tags]
    assert parsed.facts["results"][0]["remarks"] == [text]


def test_distributions_rise_from_none_to_all() -> None:
    for curve in Parsed(page([result()])).facts["results"][0]["curves"].values():
        times_ms, shares = zip(*curve, strict=True)
        assert list(times_ms) == sorted(times_ms)
        assert list(shares) == sorted(shares)
        assert (shares[0], shares[-1]) == (0, 1)


@needs_browser
def test_a_browser_draws_it_and_fetches_nothing(tmp_path: Path) -> None:
    results = [result(1, text=HOSTILE), result(4), *read_results(str(FILES / "guidellm.json"))]
    path = tmp_path / "page.html"
    write_page(path, results, HOSTILE)
    opened = open_page(path, tmp_path / "profile")
    assert opened.console == ()
    assert opened.requests == ()  # the browser's own left out
    drawn = Parsed(opened.dom)
    assert sum(tag == "svg" for tag, _ in drawn.tags) >= 2
    assert sum(tag == "option" for tag, _ in drawn.tags) == len(results)
    assert not any(tag == "img" for tag, _ in drawn.tags)


@needs_browser
def test_a_browser_draws_each_plot_of_a_measured_run(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, [result()])
    labels = {each.get("aria-label") for tag, each in Parsed(open_page(path, tmp_path / "p").dom).tags}
    assert labels >= {
        "Output tokens per second against mean TPOT",
        "Output tokens per second against mean TTFT",
        "Time to first token",
        "Time per output token",
        "Gaps between chunks",
        "requests in flight",
        "output tokens / s",
        "Waiting and decoding of each request",
    }


@needs_browser
def test_the_browser_of_these_tests_would_tell(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://fetched.invalid/x"><script>console.error("broken")</script>')
    opened = open_page(path, tmp_path / "profile")
    assert any("broken" in line for line in opened.console)
    assert any("fetched.invalid" in line for line in opened.requests)
