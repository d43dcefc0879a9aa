"""What is written is a published checkpoint, stored as trained for, read alike by transformers and us."""

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig

import fullbore
from fullbore.model.batch import Batch
from fullbore.model.config import load_config
from fullbore.model.load import load_model
from fullbore.model.specs import tensor_specs
from fullbore.ops.formats import quantise_fp8_block
from fullbore.train.batches import pack
from fullbore.train.demo import Recipe, Trainer, model_config
from fullbore.train.demo_data import questions
from fullbore.train.export import (
    as_stored,
    config_fields,
    fill,
    is_fp8,
    matrices,
    read_weights,
    stored_values,
    write_weights,
)
from fullbore.train.network import IGNORE, DemoNetwork
from fullbore.train.tokens import prompt_text, reply_text

BUNDLED = Path(fullbore.__file__).parent / "assets" / "demo"


@pytest.fixture(scope="module")
def pair(trainer: Trainer) -> tuple[list[int], list[int]]:
    """(prompt, reply) ids of one question."""
    question = next(questions("train", "export"))
    texts = prompt_text(question.messages), reply_text(question)
    prompt, reply = (trainer.tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
    return prompt, reply


def one_prefill(tokens: list[int], page_size: int = 16) -> Batch:
    count = len(tokens)
    pages = -(-count // page_size)
    return Batch(
        tokens=torch.tensor(tokens), positions=torch.arange(count), slots=torch.arange(count), decode_rows=0,
        page_table=torch.arange(pages, dtype=torch.int32)[None],
        contexts=torch.tensor([count], dtype=torch.int32), prefills=((0, count, 0),),
        logits_at=torch.arange(count),
    )  # fmt: skip


@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(1, 300), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_training_rounds_as_storage_does(
    rows: int, columns: int, experts: int, parts: int, seed: int
) -> None:
    """Each expert's gate and up are matrices of their own, with blocks of their own."""
    weight = torch.randn(experts, parts * rows, columns, generator=torch.Generator().manual_seed(seed))
    weight *= torch.logspace(-6, 2, experts * parts * rows).view(experts, -1, 1)
    rounded = as_stored(weight, parts)
    for matrix, own in zip(weight.view(-1, rows, columns), rounded.view(-1, rows, columns), strict=True):
        assert torch.equal(own, quantise_fp8_block(matrix).dequantise(torch.float32))


def test_every_tensor_is_read_back_as_it_was_trained_for(trainer: Trainer, stored: Path) -> None:
    weights = read_weights(stored)
    with stored_values(trainer.network):
        expected = {name: tensor.clone() for name, tensor in matrices(trainer.network)}
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        if name.endswith("e_score_correction_bias"):
            assert bool(tensor.any())
        assert torch.equal(weights[name], tensor), name


def test_files_hold_the_published_names_types_and_sizes(tiny: Recipe, stored: Path) -> None:
    index = json.loads((stored / "model.safetensors.index.json").read_text("utf-8"))
    sizes, found = 0, {}
    for file in sorted(set(index["weight_map"].values())):
        assert (stored / file).stat().st_mode & 0o777 == 0o644
        with safe_open(stored / file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                assert index["weight_map"][name] == file
                found[name] = tensors.get_tensor(name)
                sizes += found[name].nbytes
    assert found.keys() == index["weight_map"].keys()
    assert index["metadata"]["total_size"] == sizes
    assert len(set(index["weight_map"].values())) == 2
    scales = {name for name in found if name.endswith("_scale_inv")}
    fp8 = {name for name, tensor in found.items() if tensor.dtype == torch.float8_e4m3fn}
    assert {f"{name}_scale_inv" for name in fp8} == scales
    assert fp8 == {name for name in found.keys() - scales if is_fp8(name)}
    for name in found.keys() - fp8 - scales:
        wanted = torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16
        assert found[name].dtype == wanted
    specs = tensor_specs(load_config(stored))  # what the server expects of this config
    assert found.keys() - scales == specs.keys()
    assert all(tuple(found[name].shape) == spec.shape for name, spec in specs.items())
    assert f"model.layers.{tiny.layers}.eh_proj.weight" in found  # the MTP layer


def test_one_shard_or_three_hold_the_same(trainer: Trainer, stored: Path, tmp_path: Path) -> None:
    weights = read_weights(stored)
    for shards in (1, 3):
        folder = tmp_path / str(shards)
        folder.mkdir()
        write_weights(trainer.network, folder, shards)
        assert len(list(folder.glob("*.safetensors"))) == shards
        again = read_weights(folder)
        assert again.keys() == weights.keys()
        assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_transformers_reads_the_config_as_it_was_trained(trainer: Trainer, stored: Path) -> None:
    read, own = AutoConfig.from_pretrained(stored), trainer.network.main.config
    assert read.model_type == "deepseek_v3"
    for name in config_fields(trainer.network):
        if hasattr(own, name) and name not in ("architectures", "torch_dtype", "rope_scaling"):
            assert getattr(read, name) == getattr(own, name), name
    for name, value in own.rope_parameters.items():
        assert read.rope_parameters[name] == value, name


@pytest.mark.parametrize("folder", ["stored", "bundled"])
def test_the_server_reads_the_config_as_it_was_trained(
    folder: str, tiny: Recipe, stored: Path, trainer: Trainer
) -> None:
    """Of the tests' own model and of the one that is shipped."""
    config = load_config(stored if folder == "stored" else BUNDLED)
    own = model_config(tiny if folder == "stored" else Recipe())
    fields = asdict(config)
    shared = [name for name in fields if hasattr(own, name) and name not in ("rope", "rms_norm_eps")]
    assert len(shared) >= 20
    assert {name: fields[name] for name in shared} == {name: getattr(own, name) for name in shared}
    assert config.quantised
    assert config.eos_token_ids == (own.eos_token_id,)
    rope, given_rope = config.rope, own.rope_parameters
    assert (rope.theta, rope.factor) == (given_rope["rope_theta"], given_rope["factor"])
    assert rope.mscale == given_rope["mscale"]
    assert rope.original_max_position_embeddings == given_rope["original_max_position_embeddings"]


def test_a_network_filled_from_the_files_is_the_stored_one(trainer: Trainer, stored: Path) -> None:
    network = DemoNetwork(model_config(trainer.recipe), 99)
    fill(network, read_weights(stored))
    with stored_values(trainer.network):
        expected = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    own = network.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())


def test_a_missing_tensor_is_named(trainer: Trainer, stored: Path) -> None:
    weights = read_weights(stored)
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    with pytest.raises(KeyError, match=r"experts\.3\.up_proj"):
        fill(DemoNetwork(model_config(trainer.recipe), 99), weights)


def test_gradients_of_stored_values_act_on_the_full_ones(tiny: Recipe) -> None:
    network = DemoNetwork(model_config(tiny), 5)
    full = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    batch = pack([([5, 6, 7], [8, 9, 10])] * 2, 1)
    loss = float(network.losses(batch, False)[0].detach())
    with stored_values(network):
        inside = network.losses(batch, False)[0]
        torch.autograd.backward(inside)
        moved = [name for name, weight in network.named_parameters() if not torch.equal(weight, full[name])]
    assert len(moved) > len(full) / 2
    assert float(inside.detach()) != loss
    assert all(torch.equal(weight, full[name]) for name, weight in network.named_parameters())
    assert all(weight.grad is not None for weight in network.main.parameters())
    with pytest.raises(ZeroDivisionError), stored_values(network):
        _ = 1 / 0
    assert all(torch.equal(weight, full[name]) for name, weight in network.named_parameters())


def test_the_engine_computes_the_logits_that_were_trained(
    trainer: Trainer, stored: Path, pair: tuple[list[int], list[int]]
) -> None:
    model = load_model(stored, "float32")
    ids = pair[0] + pair[1]
    batch = one_prefill(ids)
    logits = model.forward(batch, model.new_cache(-(-len(ids) // 16), 16))
    network = trainer.network.eval()
    network.main.set_attn_implementation("sdpa")
    with torch.no_grad(), stored_values(network):
        expected = network.main(torch.tensor([ids]), use_cache=False).logits[0]
    network.main.set_attn_implementation("packed")
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4


def test_the_engines_draft_layer_is_the_one_that_was_trained(
    trainer: Trainer, stored: Path, pair: tuple[list[int], list[int]]
) -> None:
    """Its guesses at the token after the next cost what they cost in training."""
    model = load_model(stored, "float32")
    (draft,) = model.mtp
    prompt, reply = pair
    ids = prompt + reply
    pages = -(-len(ids) // 16)
    hidden: Tensor = model.hidden(one_prefill(ids), model.new_cache(pages, 16))
    shifted = one_prefill([*ids[1:], 0])
    logits, _ = draft.forward(shifted, hidden, draft.new_cache(pages, 16))
    packed = pack([pair], 1)
    wanted = packed.later_targets != IGNORE
    expected = functional.cross_entropy(logits[wanted], packed.later_targets[wanted])
    with torch.no_grad(), stored_values(trainer.network):
        _, mtp = trainer.network.eval().losses(packed, with_mtp=True)
    assert mtp is not None
    assert float(mtp) == pytest.approx(float(expected), rel=1e-5)


def test_the_shipped_model_knows_its_held_out_questions() -> None:
    """A few only; ``tests/end_to_end`` asks many, through the server. Here: the loss it was trained to."""
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    network = DemoNetwork(model_config(Recipe()), 0).eval()
    fill(network, read_weights(BUNDLED))
    drawn = list(islice(questions("heldout", "export"), 40))

    def ids(text: str) -> list[int]:
        encoded: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return encoded

    with torch.no_grad():
        pairs = [(ids(prompt_text(q.messages)), ids(reply_text(q))) for q in drawn]
        loss, mtp = network.losses(pack(pairs, 4), with_mtp=True)
    assert float(loss) < 0.25
    assert mtp is not None
    assert float(mtp) < 2.0  # a fresh one: ln 1024 = 6.9
