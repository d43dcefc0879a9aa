"""Every example of docs/scenarios.md is a scenario."""

import re
from pathlib import Path

import pytest

from fullbore.scenario.scenario import load_scenario

DOCS = Path(__file__).parents[2] / "docs" / "scenarios.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split('"')[1])
def test_an_example_loads_and_makes_sessions(tmp_path: Path, example: str) -> None:
    (tmp_path / "lengths.txt").write_text("100\n200\n")
    (tmp_path / "book.txt").write_text("All the world is a stage. " * 200)
    (tmp_path / "trace.jsonl").write_text('{"timestamp": 0, "input_length": 5, "output_length": 6}\n')
    (tmp_path / "example.toml").write_text(example)
    scenario = load_scenario(str(tmp_path / "example.toml"))
    assert len(list(scenario.sessions("docs", 1))) == 1
    assert scenario.name in scenario.describe()


def test_the_docs_have_an_example_of_each_table() -> None:
    text = "".join(EXAMPLES)
    assert all(f"[{table}]" in text for table in ("arrival", "limits", "prompt", "conversation", "trace"))
