"""The flags of ``fullbore serve``: aliases, variables, and what is refused before anything is loaded."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from fullbore import flags
from fullbore.errors import FullboreError, UsageError
from fullbore.server import command


def parse(*argv: str, environ: Mapping[str, str] | None = None) -> dict[str, object]:
    parser = flags.Parser(prog="fullbore serve")
    command.configure(parser)
    return vars(flags.parse(parser, argv, environ or {}))


def run(*argv: str) -> int:
    parser = flags.Parser(prog="fullbore serve")
    command.configure(parser)
    return command.run(flags.parse(parser, argv, {}))


@pytest.mark.parametrize(
    ("spellings", "name", "value"),
    [
        (("--max-model-len", "--context-length", "-c"), "max_model_len", 77),
        (("--max-num-seqs", "--max-running-requests"), "max_num_seqs", 77),
        (("--max-num-batched-tokens", "--chunked-prefill-size"), "max_num_batched_tokens", 77),
        (("--max-queued-requests", "--max-num-queued-reqs"), "max_queued_requests", 77),
        (("--tensor-parallel-size", "--tp-size", "--tp"), "tensor_parallel_size", 77),
        (("--cuda-graph-max-bs", "--max-cudagraph-capture-size"), "cuda_graph_max_bs", 77),
    ],
)
def test_both_spellings_mean_the_same(spellings: tuple[str, ...], name: str, value: int) -> None:
    for spelling in spellings:
        assert parse("demo", spelling, str(value))[name] == value


def test_graphs_are_turned_off_in_two_ways() -> None:
    assert parse("demo")["cuda_graph"] is True
    assert parse("demo", "--disable-cuda-graph")["cuda_graph"] is False
    assert parse("demo", "--enforce-eager")["cuda_graph"] is False


def test_prefix_caching_is_turned_off_in_three_ways() -> None:
    assert parse("demo")["prefix_caching"] is True
    assert parse("demo", "--no-enable-prefix-caching")["prefix_caching"] is False
    assert parse("demo", "--disable-radix-cache")["prefix_caching"] is False
    assert parse("demo", environ={"FULLBORE_DISABLE_RADIX_CACHE": "1"})["prefix_caching"] is False


def test_it_listens_to_this_machine_only_unless_told() -> None:
    arguments = parse("demo")
    assert (arguments["host"], arguments["port"]) == ("127.0.0.1", 8000)


def test_keys_come_from_flags_or_the_environment() -> None:
    assert parse("demo", "--api-key", "a", "--api-key", "b")["api_key"] == ["a", "b"]
    assert parse("demo", environ={"FULLBORE_API_KEY": "a b"})["api_key"] == ["a", "b"]
    assert parse("demo")["api_key"] == []  # the default is not what an earlier parse appended to


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["demo", "--tp", "8"], "expected 1"),
        (["demo", "--trust-remote-code"], "never supported"),
        (["demo", "--api-key", " "], "--api-key is empty"),
        (["demo", "--served-model-name", ""], "--served-model-name is empty"),
        (["demo", "--port", "70000"], "65535"),
        (["demo", "--max-num-seqs", "0"], "from 1"),
        (["demo", "--kv-gb", "-1"], "from 0"),
        (["demo", "--kv-gb", "nan"], "from 0"),
        (["demo", "--max-body-mb", "0"], "above 0"),
        (["demo", "--dtype", "float16"], "float16"),
        (["demo", "--weights", "int5"], r"--weights int5 is not known \(did you mean int"),
        (["demo", "--reasoning-parser", "qwen"], "deepseek-r1"),
        (["demo", "--max-num-seq", "1"], "did you mean --max-num-seqs"),
        ([], "MODEL"),
    ],
)
def test_what_cannot_be_is_refused_by_name(argv: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(*argv)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FullboreError, match="no folder"):
        run(str(tmp_path / "nothing"))
    with pytest.raises(FullboreError, match=r"config\.json"):
        run(str(tmp_path))
