"""Weights made at random where they are needed: of the right shapes, sane, and each unlike the others."""

import json
from pathlib import Path

import torch
from small_models import PagedRun

from fullbore.hardware.device import CPU
from fullbore.kernels.torch import KERNELS
from fullbore.model.config import parse_config
from fullbore.model.load import build, load_model
from fullbore.model.made import POOL_BYTES, Made
from fullbore.model.make_checkpoint import config_fields
from fullbore.model.share import held_specs
from fullbore.model.specs import TensorSpec, tensor_specs
from fullbore.ops.registry import Registry
from fullbore.parallel.layout import parse_layout
from fullbore.parallel.rank import Rank, Role

NARROW = [
    "hidden_size=96", "num_hidden_layers=61", "first_k_dense_replace=3", "n_routed_experts=4", "n_group=1",
    "topk_group=1", "num_experts_per_tok=2", "vocab_size=512", "num_nextn_predict_layers=0",
]  # fmt: skip


def made_of(changes: list[str]) -> tuple[dict[str, TensorSpec], Made]:
    config = parse_config(config_fields("tiny", changes))
    specs = {name: spec for name, spec in tensor_specs(config).items() if not spec.optional}
    return specs, Made(specs, config, CPU)


def test_activations_stay_near_one_through_61_layers() -> None:
    config = parse_config(config_fields("tiny", NARROW))
    specs = {name: spec for name, spec in tensor_specs(config).items() if not spec.optional}
    model = build(config, Made(specs, config, CPU), "float32", Registry(KERNELS))
    run = PagedRun(model, [[5, 9, 200, 3, 77, 41]], 4, seed=1)
    batch, _ = run.batch([6])
    hidden = model.hidden(batch, run.cache)
    assert bool(hidden.isfinite().all())
    assert 0.5 < float(hidden.square().mean().sqrt()) < 2
    logits = model.logits(hidden)
    assert 0.5 < float(logits.std()) < 6
    assert len(set(logits.argmax(1).tolist())) > 1


def test_shapes_and_bytes_are_those_of_the_specs_and_no_value_is_odd() -> None:
    specs, made = made_of(["num_hidden_layers=2"])
    total = 0
    for name, spec in specs.items():
        if len(spec.shape) == 2:
            weight = made.weight(name)
            assert (weight.data.shape, weight.format) == (spec.shape, made.outline(name).format)
            values = weight.dequantise(torch.float32)
            total += weight.bytes
        else:
            values = made.tensor(name)
            total += values.nbytes
        assert bool(values.isfinite().all())
    assert total == made.total_bytes


def test_matrices_differ_and_come_out_the_same_again() -> None:
    specs, made = made_of(["num_hidden_layers=2"])
    names = [name for name in specs if name.endswith("gate_proj.weight") and ".experts." in name]
    first = {bytes(made.weight(name).data.view(torch.uint8).numpy().tobytes()) for name in names}
    assert len(first) == len(names)
    again = made_of(["num_hidden_layers=2"])[1]
    one, other = (each.weight(names[0]).data.view(torch.uint8) for each in (made, again))
    assert torch.equal(one, other)


def test_a_matrix_larger_than_the_pool_is_filled_by_it_over_and_over() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    wide = TensorSpec(name, (3, POOL_BYTES), "linear")
    large = Made({name: wide}, parse_config(config_fields("tiny")), CPU)
    data = large.weight(name).data.view(torch.uint8)
    assert data.shape == (3, POOL_BYTES)
    assert torch.equal(data[0], data[1])
    assert len(data[0, :4096].unique()) > 80


def test_a_rank_of_a_preset_loads_without_a_checkpoint(tmp_path: Path) -> None:
    fields = config_fields("tiny", ["moe_intermediate_size=256", "intermediate_size=512"])
    (tmp_path / "config.json").write_text(json.dumps(fields))
    layout = parse_layout("tp2ep2")
    model = load_model(tmp_path, "float32", role=Role(Rank(layout, 1)), random=True)
    config = model.config
    specs = {name: spec for name, spec in tensor_specs(config).items() if not spec.optional}
    held = held_specs(specs, config, Role(Rank(layout, 1)))
    assert sum(".mlp.experts." in name for name in held) * 2 == sum(".mlp.experts." in name for name in specs)
    (logits,) = PagedRun(model, [[3, 4, 5]], 16, seed=1).finish([[3]])
    assert logits.shape == (3, config.vocab_size)
    assert bool(logits.isfinite().all())
