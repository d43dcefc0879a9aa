"""``fullbore make-checkpoint``: the published format, the same weights from a seed, no half results."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoint_faults import SMALL, open_small, write_small
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from fullbore.cli import main
from fullbore.errors import CapacityError, ConfigError, UsageError
from fullbore.model.checkpoint import INDEX
from fullbore.model.config import load_config, parse_config
from fullbore.model.make_checkpoint import config_fields, make_checkpoint, plan_shards
from fullbore.model.presets import PRESETS
from fullbore.model.random_tokenizer import write_tokenizer
from fullbore.model.random_weights import RandomWeights
from fullbore.model.specs import tensor_specs


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors(folder).items()}


@given(st.integers(4, 2_000_000), st.integers(0, 2**64))
@settings(max_examples=8, deadline=None)
def test_the_seed_alone_decides_the_weights(
    tmp_path_factory: pytest.TempPathFactory, shard_bytes: int, seed: int
) -> None:
    one, other, unlike = (tmp_path_factory.mktemp("c") for _ in range(3))
    write_small(one, seed=seed)
    write_small(other, seed=seed, shard_bytes=shard_bytes)
    write_small(unlike, seed=seed + 1)
    weights = bytes_of(one)
    assert weights == bytes_of(other)
    assert all(data != weights[name] for name, data in bytes_of(unlike).items() if len(data) > 64)


def test_fewer_layers_are_the_first_layers_of_more(tmp_path: Path) -> None:
    write_small(tmp_path / "a", "num_nextn_predict_layers=0", format="bf16")
    write_small(tmp_path / "b", "num_nextn_predict_layers=0", "num_hidden_layers=1", format="bf16")
    more = bytes_of(tmp_path / "a")
    for name, data in bytes_of(tmp_path / "b").items():
        if not name.endswith(("o_proj.weight", "down_proj.weight")):  # scaled by the number of layers
            assert data == more[name]


def test_both_formats_hold_the_same_model(tmp_path: Path) -> None:
    fp8, bf16 = (open_small(write_small(tmp_path / name, format=name)) for name in ("fp8", "bf16"))
    for name, spec in fp8.specs.items():
        if spec.kind == "linear":
            assert fp8.weight(name).format == "fp8_block"
            assert bf16.weight(name).format == "bf16"
            assert torch.equal(fp8.weight(name).dequantise(torch.bfloat16), bf16.weight(name).data)
        else:
            assert torch.equal(fp8.tensor(name), bf16.tensor(name))


def test_every_block_uses_the_whole_range_and_factors_differ(tmp_path: Path) -> None:
    checkpoint = open_small(write_small(tmp_path))
    weight = checkpoint.weight("model.layers.0.self_attn.o_proj.weight")  # 160 x 64: 2 blocks
    assert weight.scale is not None
    assert weight.data[:128].float().abs().max() == weight.data[128:].float().abs().max() == 448
    assert weight.scale[0, 0] != weight.scale[1, 0]


def test_copies_in_the_mtp_layer_are_copies(tmp_path: Path) -> None:
    found = tensors(write_small(tmp_path))
    assert torch.equal(found["model.layers.2.embed_tokens.weight"], found["model.embed_tokens.weight"])
    assert torch.equal(found["model.layers.2.shared_head.head.weight"], found["lm_head.weight"])


@pytest.mark.parametrize("changes", [(), ("tie_word_embeddings=true",), ("num_hidden_layers=8",)])
def test_activations_neither_explode_nor_die(tmp_path: Path, changes: tuple[str, ...]) -> None:
    """In transformers, which must be able to read it too."""
    write_small(tmp_path, "num_nextn_predict_layers=0", *changes, format="bf16")
    model, report = DeepseekV3ForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        tokens = torch.arange(3, 67)[None]
        out = model(tokens, output_hidden_states=True, output_router_logits=True)
    lowest = 0.05 if changes and "tie" in changes[0] else 0.5  # a tied embedding begins small
    for state in out.hidden_states:
        assert lowest < state.std() < 3
    assert 0.5 < out.logits.std() < 6
    assert out.logits.argmax(-1).unique().numel() > 10
    for logits in out.router_logits:
        assert 0.5 < logits.std() < 2
        assert logits.argmax(-1).unique().numel() > 1


def test_the_published_model_in_its_published_parts() -> None:
    config = parse_config(config_fields("deepseek-v3"))
    shards = plan_shards(config, 4_300_000_000)
    assert sum(len(shard) for shard in shards) == 91_991
    assert sum(piece.bytes for shard in shards for piece in shard) == 688_574_839_360
    assert max(sum(piece.bytes for piece in shard) for shard in shards) <= 4_300_000_000


def test_no_more_than_a_piece_of_a_tensor_is_in_memory() -> None:
    config = parse_config(config_fields("deepseek-v3"))
    weights, specs = RandomWeights(config, 0), tensor_specs(config)
    for name, dtype in (("model.embed_tokens.weight", "BF16"), ("model.layers.0.mlp.up_proj.weight", "BF16")):
        assert len(next(weights.stored(specs[name], dtype))) <= 64 << 20 < 2 * specs[name].elements


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("format", ["fp8", "bf16"])
def test_presets_are_valid(name: str, format: str) -> None:
    config = parse_config(config_fields(name, format=format))
    assert config.quantised == (format == "fp8")


def test_real_layer_shapes_at_few_layers() -> None:
    config = parse_config(config_fields("v3-layer"))
    whole, specs = tensor_specs(parse_config(config_fields("deepseek-v3"))), tensor_specs(config)
    assert {config.is_moe(layer) for layer in range(config.num_hidden_layers)} == {True, False}
    moe = "model.layers.1.mlp.experts.255.down_proj.weight"
    assert specs[moe].shape == whole[moe.replace("layers.1", "layers.3")].shape == (7168, 2048)


def test_the_folder_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "er"
    code = main(
        ["make-checkpoint", str(out), "--shard-gb", "0.0003", "--seed", "3", "--layers", "2"]
        + [word for change in SMALL for word in ("--set", change)]
        + ["--set", "rope_scaling.factor=8", "--set", "eos_token_id=[1, 5]"]
    )
    assert code == 0
    assert "fullbore inspect" in capsys.readouterr().out
    config = load_config(out)
    assert (config.num_hidden_layers, config.rope.factor, config.eos_token_ids) == (2, 8.0, (1, 5))
    open_small(out)
    index = json.loads((out / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(out).values())
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


def test_a_config_file_can_be_given(tmp_path: Path) -> None:
    """As transformers saves it: what other engines need and it leaves out is filled in."""
    DeepseekV3Config(vocab_size=300, hidden_size=64, num_nextn_predict_layers=0).save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "config.json"):
        fields = config_fields(str(source))
        assert fields["hidden_size"] == 64
        assert (fields["topk_method"], fields["scoring_func"]) == ("noaux_tc", "sigmoid")
        assert parse_config(fields).quantised


@pytest.mark.parametrize(
    ("source", "changes", "says"),
    [
        ("tinny", [], "did you mean tiny"),
        ("tiny", ["hidden_size"], "expected FIELD=VALUE"),
        ("tiny", ["hiden_size=3"], "did you mean hidden_size"),
        ("tiny", ["rope_scalin.factor=3"], "did you mean rope_scaling"),
    ],
)
def test_wrong_words_are_refused(source: str, changes: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        config_fields(source, changes)


def test_impossible_values_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_group"):
        config_fields("tiny", ["n_group=3"])
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        config_fields("tiny", ["num_hidden_layers=0"])
    for size in ("0", "nan", "inf"):
        assert main(["make-checkpoint", str(tmp_path / "x"), "--shard-gb", size]) == 2
    assert not (tmp_path / "x").exists()


def test_a_folder_in_use_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write_small(tmp_path, shard_bytes=100_000)
    (tmp_path / "notes.txt").write_text("mine")
    fields = config_fields("tiny", SMALL)
    with pytest.raises(UsageError, match="--force"):
        make_checkpoint(tmp_path, fields)
    make_checkpoint(tmp_path, fields, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert not (tmp_path / INDEX).exists()
    with pytest.raises(UsageError, match="is a file"):
        make_checkpoint(tmp_path / "notes.txt", fields, force=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_early_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    scale, calls = RandomWeights.scale, 0

    def failing(self: RandomWeights, spec: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise error
        return scale(self, spec)  # type: ignore[arg-type]

    monkeypatch.setattr(RandomWeights, "scale", failing)
    with pytest.raises((KeyboardInterrupt, OSError)):
        write_small(tmp_path / "a" / "b", shard_bytes=50_000)
    assert calls > 20
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises((KeyboardInterrupt, OSError)):
        make_checkpoint(tmp_path, config_fields("tiny", SMALL), force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_disk_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    with pytest.raises(CapacityError, match=r"688\.6 GB.*0\.1 GB free"):
        make_checkpoint(tmp_path / "x", config_fields("deepseek-v3"))
    assert not (tmp_path / "x").exists()


# The tokenizer.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("t")
    write_tokenizer(folder, parse_config(config_fields("deepseek-v3")))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_the_vocabulary_is_full(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(129280))
    assert tokenizer.token_to_id("<｜begin▁of▁sentence｜>") == 0
    assert tokenizer.token_to_id("<｜end▁of▁sentence｜>") == 1


@given(st.text())
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(st.lists(st.integers(5, 129279)))
def test_any_ids_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert isinstance(tokenizer.decode(ids), str)


def test_special_tokens_lie_where_the_config_says(tmp_path: Path) -> None:
    config = parse_config(config_fields("tiny", ["bos_token_id=400", "eos_token_id=[401, 2]"]))
    write_tokenizer(tmp_path, config)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.token_to_id("<｜begin▁of▁sentence｜>") == 400
    assert tokenizer.token_to_id("<｜end▁of▁sentence｜>") == 401
    assert len(set(tokenizer.get_vocab().values())) == config.vocab_size


def test_a_vocabulary_too_small_for_bytes_has_no_tokenizer(tmp_path: Path) -> None:
    assert not write_tokenizer(tmp_path, parse_config(config_fields("tiny", ["vocab_size=100"])))
    assert not list(tmp_path.iterdir())
