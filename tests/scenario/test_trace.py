"""Traces: lengths, times and shared content come back as recorded; a bad line is named."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.scenario.arrival import ClosedLoop, OpenLoop, Replay
from fullbore.scenario.prompt import RandomTokens
from fullbore.scenario.scenario import Scenario, scenario_from_dict

unhurried = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

LIMITS = {"ttft_ms": 1.0, "tpot_ms": 1.0}
BLOCK = 16


def trace_file(folder: Path, lines: list[dict[str, Any]], name: str = "t.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scenario(path: Path, kind: str = "mooncake", **more: Any) -> Scenario:
    arrival = {"arrival": more.pop("arrival")} if "arrival" in more else {}
    trace = {"file": str(path), "format": kind, **more}
    return scenario_from_dict({"name": "t", "trace": trace, "limits": LIMITS, **arrival})


@st.composite
def mooncake(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Prompts that are paths down a tree of blocks: a block's hash also stands for all before it."""
    lines = []
    for _ in range(draw(st.integers(1, 8))):
        tokens = draw(st.integers(1, 5 * BLOCK))
        path = draw(st.lists(st.integers(1, 2), min_size=-(-tokens // BLOCK), max_size=-(-tokens // BLOCK)))
        hashes, here = [], 0
        for step in path:
            here = here * 3 + step
            hashes.append(here)
        lines.append(
            {
                "timestamp": draw(st.integers(0, 10_000)),
                "input_length": tokens,
                "output_length": draw(st.integers(1, 100)),
                "hash_ids": hashes,
            }
        )
    return lines


@unhurried
@given(lines=mooncake(), speed=st.sampled_from([0.5, 1.0, 4.0]))
def test_a_trace_comes_back_in_its_order_with_its_times_and_lengths(
    tmp_path: Path, lines: list[dict[str, Any]], speed: float
) -> None:
    path = trace_file(tmp_path, lines)
    loaded = scenario(path, block_tokens=BLOCK, arrival={"speed": speed})
    assert loaded.count == len(lines)
    ordered = sorted(lines, key=lambda line: line["timestamp"])
    sessions = list(loaded.sessions("s", 1000))
    assert [session.number for session in sessions] == list(range(len(lines)))
    for session, line in zip(sessions, ordered, strict=True):
        (request,) = session.requests
        assert (request.input_tokens, request.output_tokens) == (line["input_length"], line["output_length"])
        assert session.start_s == pytest.approx((line["timestamp"] - ordered[0]["timestamp"]) / 1000 / speed)
    assert loaded.input.mean == pytest.approx(sum(line["input_length"] for line in lines) / len(lines))
    assert loaded.most_tokens >= max(line["input_length"] + line["output_length"] for line in lines)


@unhurried
@given(lines=mooncake(), scale=st.sampled_from([Fraction(1), Fraction(1, 3), Fraction(1, 40)]))
def test_prompts_share_exactly_the_blocks_that_were_shared(
    tmp_path: Path, lines: list[dict[str, Any]], scale: Fraction
) -> None:
    loaded = scenario(trace_file(tmp_path, lines), block_tokens=BLOCK).scaled(scale)
    lines = sorted(lines, key=lambda line: line["timestamp"])
    material = RandomTokens(10**9)  # two random prompts are never equal by chance
    prompts = [material.render(session.requests[0].prompt) for session in loaded.sessions("s", 99)]
    block = max(1, round(BLOCK * scale))
    for one, line in zip(prompts, lines, strict=True):
        assert len(one) == max(1, round(line["input_length"] * scale))
        for other, beside in zip(prompts, lines, strict=True):
            both = zip(line["hash_ids"], beside["hash_ids"], strict=False)
            alike = sum(mine == theirs for mine, theirs in both)  # of a tree: only a prefix can be equal
            same = next(
                (n for n, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), None
            )
            if same is not None and scale == 1:
                assert alike * block == same


def test_how_much_was_seen_before(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [1, 2, 3]},
        {"timestamp": 5, "input_length": 20, "output_length": 3, "hash_ids": [1, 4]},
        {"timestamp": 9, "input_length": 48, "output_length": 5, "hash_ids": [1, 2, 5]},
    ]
    loaded = scenario(trace_file(tmp_path, lines), block_tokens=BLOCK)
    assert loaded.trace is not None
    assert loaded.trace.repeated_tokens == pytest.approx((0 + 16 + 32) / 3)
    assert (loaded.history_tokens, loaded.input_tokens) == (16, 20)
    assert "3 requests" in loaded.describe()
    assert "44% of prompt tokens seen before" in loaded.describe()


def test_a_trace_at_ones_own_rate_begins_again_with_other_content(tmp_path: Path) -> None:
    path = trace_file(
        tmp_path, [{"timestamp": 0, "input_length": 9, "output_length": 2, "hash_ids": [7]}] * 2
    )
    closed = scenario(path, arrival={"concurrency": 2})
    assert (closed.arrival, closed.count) == (ClosedLoop(2), None)
    sessions = list(closed.sessions("s", 5))
    assert [session.start_s for session in sessions] == [None] * 5
    assert len({session.requests[0].prompt for session in sessions}) == 3, (
        "three passes over two equal prompts"
    )
    assert not set(sessions[0].requests[0].prompt) & set(next(closed.sessions("b", 1)).requests[0].prompt)
    spaced = scenario(path, arrival={"rate": 2.0, "process": "constant"})
    assert isinstance(spaced.arrival, OpenLoop)
    assert [session.start_s for session in spaced.sessions("s", 4)] == [0, 0.5, 1, 1.5]


def test_formats_of_others(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    for text in (
        f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}",
        rows,
        rows.replace(",374", "+00:00,374"),
    ):
        azure.write_text(text)
        first, second = scenario(azure, "azure").sessions("s", 9)
        assert (first.requests[0].input_tokens, second.requests[0].output_tokens) == (374, 109)
        assert (first.start_s, second.start_s) == (0, pytest.approx(4.314579, abs=1e-6))
    timed = trace_file(tmp_path, [{"timestamp": t, "input_length": 5, "output_length": 6} for t in (3.5, 2)])
    assert [session.start_s for session in scenario(timed, "guidellm").sessions("s", 9)] == [0, 1.5]
    counts = tmp_path / "counts.csv"
    counts.write_text("prompt_tokens_count,output_tokens_count\n10,20\n")
    loaded = scenario(counts, "guidellm", arrival={"concurrency": 3})
    assert (loaded.input_tokens, loaded.output_tokens) == (10, 20)


def test_a_limit_reads_only_the_beginning(tmp_path: Path) -> None:
    path = trace_file(tmp_path, [{"timestamp": t, "input_length": 5, "output_length": 6} for t in (0, 1)])
    with path.open("a") as file:
        file.write("not JSON\n")
    assert scenario(path, limit=2).count == 2
    with pytest.raises(UsageError, match="3: not JSON"):
        scenario(path)


GOOD = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_length": 0}, "input_length = 0; expected a whole number from 1"),
        ({"input_length": "many"}, "input_length = 'many'"),
        ({"output_length": -1}, "output_length = -1"),
        ({"output_length": 1.5}, "output_length = 1.5"),
        ({"timestamp": "now"}, "timestamp = 'now'; expected a time"),
        ({"hash_ids": [1]}, "hash_ids has 1 entries; 600 tokens in blocks of 512 make 2"),
        ({"hash_ids": [1, "2"]}, "hash_ids = [1, '2']; expected a list of whole numbers"),
        ({"hash_ids": 3}, "hash_ids = 3"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = trace_file(tmp_path, [GOOD, GOOD | change])
    with pytest.raises(UsageError) as error:
        scenario(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("content", "name", "kind", "named"),
    [
        (b"", "t.jsonl", "mooncake", "holds no requests; expected one a line in the mooncake format"),
        (b"[1]\n", "t.jsonl", "mooncake", "1: '[1]'; expected a JSON object"),
        (b"\x1f\x8b\x08\n", "t.jsonl", "mooncake", "1: not UTF-8 text; is it compressed?"),
        (b'{"input_length": 1}\n', "t.jsonl", "mooncake", "1: output_length is missing"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,1\n", "t.csv", "azure", "2: TIMESTAMP = 'x'"),
        (b"2023-11-16 18:15:46.68,1\n", "t.csv", "azure", "1: 2 cells; expected 3"),
        (
            b'{"input_length": 1, "output_length": 1, "timestamp": 1}\n'
            b'{"input_length": 1, "output_length": 1}\n',
            "t.jsonl",
            "guidellm",
            "2: timestamp must be in every line or in none",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes, name: str, kind: str, named: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as error:
        scenario(tmp_path / name, kind)
    assert named in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_what_goes_with_a_trace_and_what_does_not(tmp_path: Path) -> None:
    path = trace_file(tmp_path, [{"input_length": 5, "output_length": 6}])
    with pytest.raises(UsageError, match="did you mean mooncake"):
        scenario(path, "moncake")
    with pytest.raises(UsageError, match="arrival is missing"):
        scenario(path, "guidellm")
    with pytest.raises(UsageError, match="replays recorded times, and there are none"):
        scenario(path, "guidellm", arrival={"speed": 2})
    table = {"name": "t", "trace": {"file": str(path), "format": "guidellm"}, "limits": LIMITS}
    table["arrival"] = {"concurrency": 1}
    for key, value in (("input_tokens", 5), ("conversation", {}), ("prompt", {"shared_tokens": 3})):
        with pytest.raises(UsageError, match=r"beside \[trace\]"):
            scenario_from_dict(table | {key: value})


def test_a_report_can_be_read_without_the_trace_but_not_replayed_with_another(tmp_path: Path) -> None:
    path = trace_file(tmp_path, [GOOD, GOOD])
    loaded = scenario(path).scaled(Fraction(1, 7)).scaled(Fraction(1, 3))
    written = json.dumps(loaded.as_dict())
    sessions = list(loaded.sessions("s", 9))
    again = scenario_from_dict(json.loads(written))
    assert again == loaded
    assert list(again.sessions("s", 9)) == sessions
    trace_file(tmp_path, [GOOD])
    with pytest.raises(UsageError, match="has changed"):
        list(again.sessions("s", 9))
    path.unlink()
    assert scenario_from_dict(json.loads(written)).describe() == loaded.describe()
    with pytest.raises(UsageError, match="cannot be read"):
        list(again.sessions("s", 9))


def test_a_warm_up_for_a_trace_has_its_lengths_but_is_short(tmp_path: Path) -> None:
    warm = scenario(trace_file(tmp_path, [GOOD | {"output_length": 50}])).warm_up(3, 8)
    assert (warm.arrival, warm.output_tokens, warm.input_tokens) == (ClosedLoop(3), 8, 600)
    assert len(list(warm.sessions("warm-up", 3))) == 3


def test_replay_is_the_default_where_times_were_recorded(tmp_path: Path) -> None:
    assert scenario(trace_file(tmp_path, [GOOD])).arrival == Replay()
