"""The commands: every flag is one that its engine lists, and every limit counts what it counts there."""

import argparse
import json
import shlex
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.flags import Parser
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.layout import parse_layout
from fullbore.plan.demand import demand_of
from fullbore.plan.launch import flag_tables, launch, launchable
from fullbore.plan.space import Space, trials
from fullbore.plan.trial import Trial
from fullbore.scenario.scenario import load_scenario
from fullbore.server import command
from fullbore.steptime.network import RECIPES
from fullbore.steptime.profiles import find_profile

LAYOUTS = ("tp8", "tp8ep8", "tp8ep4", "ep8dp8", "tp2dp4", "tp2ep8dp4", "tp2ep4dp4")
TYPES = {"int": int, "float": float, "str": str, "json": json.loads}


@cache
def way(
    layout: str,
    cache: str = "fp8",
    recipe: str = "fp8",
    drafts: int = 0,
    chunk: int = 4096,
    running: int = 96,
    server: str = "8xMI300X",
) -> Trial:
    where, demand = find_server(server), demand_of(load_scenario("dialog"))
    space = Space([parse_layout(layout)], [RECIPES[recipe]], (cache,), (chunk,), (running,), (drafts,), 0.8)
    found = next(
        trials(named_config(DEEPSEEK_V3), where, find_profile("sglang", where.device), space, [demand])
    )
    assert isinstance(found, Trial)
    return found


class _Strict(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise AssertionError(message)


def parsed(engine: str, command: str) -> tuple[dict[str, Any], list[str]]:
    """(flags, words before them) as the engine's document says that they are read."""
    table = flag_tables()[engine]
    parser = _Strict(allow_abbrev=False)
    for flag in table["flags"]:
        takes = flag["takes"]
        if takes == "switch":
            parser.add_argument(flag["name"], action="store_true")
        elif isinstance(takes, list):
            parser.add_argument(flag["name"], choices=takes)
        else:
            parser.add_argument(flag["name"], type=TYPES[takes])
    words = shlex.split(command)
    first = next(place for place, word in enumerate(words) if word.startswith("--"))
    return vars(parser.parse_args(words[first:])), words[:first]


def test_every_entry_names_its_document() -> None:
    for engine, table in flag_tables().items():
        used = {flag["source"] for flag in table["flags"]} | set(table.get("environment", {}))
        assert used == set(table["sources"]), engine
        names = [flag["name"] for flag in table["flags"]]
        assert len(names) == len(set(names))
        for flag in table["flags"]:
            assert ("value" in flag) == (flag["takes"] != "switch"), flag["name"]
            assert flag["takes"] in (*TYPES, "switch") or isinstance(flag["takes"], list)
            assert flag.get("when", "dp") in ("dp", "ep", "mtp")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(LAYOUTS),
    st.sampled_from(("bf16", "fp8")),
    st.integers(0, 3),
    st.sampled_from((512, 2048, 16384)),
    st.integers(1, 700),
)
def test_what_is_printed_can_be_parsed_and_means_what_was_planned(
    layout: str, kv: str, drafts: int, chunk: int, running: int
) -> None:
    trial = way(layout, kv, drafts=drafts, chunk=chunk, running=512)
    held, shape, asked = trial.held, trial.setting.layout, min(running, 512)
    for engine in launchable():
        found = launch(engine, trial, running)
        assert found.sources
        if not found.command:
            continue
        got, before = parsed(engine, found.command)
        groups = shape.dp
        if engine == "sglang":
            assert (got["tp_size"], got["ep_size"] or 1) == (shape.devices, shape.ep)
            assert (got["dp_size"] or 1, got["enable_dp_attention"]) == (groups, groups > 1)
            # The server's; SGLang divides both by the groups, and none may be lost in that.
            assert asked <= got["max_running_requests"] // groups * groups < asked + groups
            assert got["chunked_prefill_size"] == chunk
            assert got["cuda_graph_max_bs"] == got["max_running_requests"] // groups
            assert got["mem_fraction_static"] < held.used_share  # activations are not in it
            assert (got["speculative_num_draft_tokens"] or 1) == 1 + drafts
            assert (got["speculative_algorithm"] is not None) == (drafts > 0)
        elif engine == "vllm":
            assert (got["tensor_parallel_size"], got["data_parallel_size"] or 1) == (shape.tp, groups)
            assert got["enable_expert_parallel"] == (shape.ep > 1)
            # Each group's own.
            assert asked <= got["max_num_seqs"] * groups < asked + groups
            assert got["max_num_batched_tokens"] * groups >= chunk
            assert got["max_num_batched_tokens"] >= got["max_num_seqs"] * (1 + drafts)
            assert got["max_cudagraph_capture_size"] == got["max_num_seqs"] * (1 + drafts)
            assert got["gpu_memory_utilization"] == held.used_share
            drafted = got["speculative_config"]
            assert (drafted["num_speculative_tokens"] if drafted else 0) == drafts
        if engine != "fullbore":
            assert any("AITER=1" in word for word in before)  # an AMD server


def test_environment_variables_are_those_of_the_vendor() -> None:
    for engine in ("sglang", "vllm"):
        _, before = parsed(engine, launch(engine, way("tp8", server="8xH200"), 64).command)
        assert not any("=" in word for word in before)


def test_batches_above_the_largest_graph_are_noted() -> None:
    found = launch("sglang", way("tp8", running=1024), 1024)
    got, _ = parsed("sglang", found.command)
    assert (got["max_running_requests"], got["cuda_graph_max_bs"]) == (1024, 512)
    assert found.notes == ("batches of more than 512 sequences are launched without a graph",)
    assert not launch("sglang", way("ep8dp8", running=1024), 1024).notes


@pytest.mark.parametrize(
    ("engine", "layout", "drafts", "why"),
    [
        ("vllm", "tp8ep4", 0, "over all 8 devices or over none"),
        ("fullbore", "ep8dp8", 0, "no data-parallel attention"),
        ("fullbore", "tp8", 1, "no drafting with MTP"),
    ],
)
def test_what_an_engine_cannot_be_told_is_said(engine: str, layout: str, drafts: int, why: str) -> None:
    found = launch(engine, way(layout, drafts=drafts), 64)
    assert not found.command
    assert why in found.notes[0]


def test_a_checkpoint_in_another_format_is_the_users_to_name() -> None:
    found = launch("sglang", way("tp8", recipe="fp4"), 64)
    assert parsed("sglang", found.command)[0]["model_path"] == "MODEL"
    assert "checkpoint in fp4" in found.notes[0]


def test_fullbores_own_command_is_one_that_it_parses() -> None:
    _, *words = shlex.split(launch("fullbore", way("tp8"), 64).command)
    parser = Parser()
    command.configure(parser)
    assert words[0] == "serve"
    assert parser.parse_args(words[1:]).max_num_seqs == 64
