"""``--weights``: every matrix becomes what its recipe says, nothing else changes, and the loss is told."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import DictSource, PagedRun, random_weights, relative_error, small_config

from fullbore.errors import CapacityError, CheckpointError, UsageError
from fullbore.model import convert as converting
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.convert import Converted, convert
from fullbore.model.load import build, load_model
from fullbore.model.make_checkpoint import config_fields, make_checkpoint
from fullbore.model.specs import tensor_specs
from fullbore.model.weights import RECIPES, recipe
from fullbore.model.workload import workload
from fullbore.ops.formats import INTEGERS, Weight, quantise_fp8_block

QUANTISED = [name for name in RECIPES if name != "stored"]
SMALL = ["hidden_size=64", "vocab_size=512", "num_nextn_predict_layers=1"]


@pytest.fixture(scope="module", params=["fp8", "bf16"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("small") / "model"
    make_checkpoint(folder, config_fields("tiny", SMALL, request.param))
    return Checkpoint.open(folder, load_config(folder))


def converted(checkpoint: Checkpoint, name: str) -> Converted:
    return Converted(checkpoint, checkpoint.specs, recipe(name))


def whole(weight: Weight, format: str) -> Weight:
    """The matrix converted in one piece."""
    values = weight.dequantise(torch.float32)
    if format in INTEGERS:
        return INTEGERS[format].quantise(values)
    return quantise_fp8_block(values) if format == "fp8_block" else Weight(values.bfloat16())


def same(one: Weight, other: Weight) -> bool:
    if (one.scale is None) != (other.scale is None) or one.integer != other.integer:
        return False
    scales = one.scale is None or other.scale is None or torch.equal(one.scale, other.scale)
    return scales and torch.equal(one.data.float(), other.data.float()) and one.data.dtype == other.data.dtype


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(["bf16", "fp8_block", *INTEGERS]),
    st.sampled_from(["fp32", "bf16", "fp8_block"]),
    st.integers(1, 700),
    st.integers(1, 300),
    st.sampled_from([128, 1 << 14, 1 << 18]),
)
def test_in_bands_as_in_one_piece(format: str, stored: str, rows: int, columns: int, band: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    plain = Weight(matrix if stored == "fp32" else matrix.bfloat16())
    weight = quantise_fp8_block(matrix) if stored == "fp8_block" else plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "BAND", band)
        made, loss = convert(weight, format)
    expected = whole(weight, format)
    assert same(made, expected)
    values = weight.dequantise(torch.float32).double()
    error = float((expected.dequantise(torch.float32).double() - values).norm() / values.norm())
    assert loss == pytest.approx(error, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", QUANTISED)
def test_each_matrix_is_what_its_recipe_says(name: str, checkpoint: Checkpoint) -> None:
    source, wanted = converted(checkpoint, name), RECIPES[name]
    for tensor, spec in checkpoint.specs.items():
        if len(spec.shape) == 1:
            assert torch.equal(source.tensor(tensor), checkpoint.tensor(tensor))
            continue
        stored = checkpoint.weight(tensor)
        format = wanted.format(spec) or stored.format
        expected = stored if format == stored.format else whole(stored, format)
        made = source.weight(tensor)
        assert made.format == format
        assert same(made, expected)
        outline = source.outline(tensor)
        assert (outline.format, outline.data.shape) == (format, made.data.shape)
        assert outline.data.is_meta
        assert source.format == wanted.linear


def test_four_bits_leave_eight_to_the_head_and_what_makes_keys_and_values_as_it_is(
    checkpoint: Checkpoint,
) -> None:
    kept = {"embed_tokens", "mlp.gate"}
    eight = {"lm_head", "eh_proj"}
    source = converted(checkpoint, "int4")
    for name, spec in checkpoint.specs.items():
        if len(spec.shape) == 2:
            stem = name.removesuffix(".weight")
            if any(stem.endswith(end) for end in kept) or spec.optional:
                continue
            expected = "int8" if any(stem.endswith(end) for end in eight) else "int4_g32"
            if stem.endswith("kv_b_proj"):
                expected = checkpoint.format(name)
            assert source.outline(name).format == expected
    mtp = f"model.layers.{checkpoint.config.num_hidden_layers}."
    assert source.outline(mtp + "self_attn.o_proj.weight").format == "int4_g32"
    assert source.outline(mtp + "mlp.gate.weight").format == "bf16"


def test_stored_weights_are_handed_on_as_they_are(checkpoint: Checkpoint) -> None:
    source = converted(checkpoint, "stored")
    for name in ("lm_head.weight", "model.layers.0.self_attn.o_proj.weight"):
        assert source.weight(name).data.data_ptr() == checkpoint.weight(name).data.data_ptr()
    assert source.total_bytes == checkpoint.total_bytes
    assert source.summary() == ""


@pytest.mark.parametrize("name", QUANTISED)
def test_bytes_are_those_of_the_converted_matrices(name: str, checkpoint: Checkpoint) -> None:
    source = converted(checkpoint, name)
    model_specs = {tensor: spec for tensor, spec in checkpoint.specs.items() if not spec.optional}
    vectors = sum(
        checkpoint.stored_bytes(tensor) for tensor, spec in model_specs.items() if len(spec.shape) == 1
    )
    matrices = sum(
        source.weight(tensor).bytes for tensor, spec in model_specs.items() if len(spec.shape) == 2
    )
    assert source.total_bytes == vectors + matrices


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("tied", [False, True])
def test_a_converted_model_is_the_model_of_its_dequantised_weights(name: str, tied: bool) -> None:
    """In float32, where numbers times factors are exact: integers are no other arithmetic."""
    config = small_config(tie_word_embeddings=tied, hidden_size=136, quantised=True)
    stored = DictSource(config, random_weights(config, 3), fp8=True)
    source = Converted(stored, tensor_specs(config), recipe(name))
    values = {
        tensor: source.weight(tensor).dequantise(torch.float32) if each.dim() == 2 else each
        for tensor, each in stored.tensors.items()
    }
    plain = DictSource(config, values)
    tokens = [[5, 6, 7, 8, 9, 10, 11], [50, 3]]
    one, other = (
        PagedRun(build(config, each, "float32"), tokens, 4, seed=1).finish([[3, 1]])
        for each in (source, plain)
    )
    for logits, expected in zip(one, other, strict=True):
        assert relative_error(logits, expected) <= 2e-5


@pytest.mark.parametrize("name", list(RECIPES))
def test_recording_reads_no_value(name: str) -> None:
    config = small_config(num_nextn_predict_layers=1)
    stored = DictSource(config, {k: v.to("meta") for k, v in random_weights(config, 1).items()})
    source = Converted(stored, tensor_specs(config), recipe(name))
    formats = {job.format for job in workload(config, source, "float32").jobs if job.operator == "moe_ffn"}
    assert formats == {RECIPES[name].linear or "fp32"}
    assert source.losses == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", QUANTISED)
def test_a_checkpoint_loads_in_every_format(name: str, dtype: str, checkpoint: Checkpoint) -> None:
    told: list[tuple[int, int]] = []
    model = load_model(checkpoint.folder, dtype, lambda *step: told.append(step), weights=name)
    assert model.format == RECIPES[name].linear
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert told[-2][0] > 0.98 * told[-1][1]
    (logits,) = PagedRun(model, [[3, 4, 5, 6]], 16, seed=1).finish([[4]])
    assert bool(logits.isfinite().all())


def test_the_loss_of_every_matrix_makes_the_summary(checkpoint: Checkpoint) -> None:
    source = converted(checkpoint, "int4")
    build(checkpoint.config, source, "float32")
    asked = {
        name for name, spec in checkpoint.specs.items() if RECIPES["int4"].format(spec) and not spec.optional
    }
    assert set(source.losses) == asked
    worst = max(source.losses, key=lambda name: source.losses[name].relative)
    weighted = sum(loss.relative * loss.elements for loss in source.losses.values())
    mean = weighted / sum(loss.elements for loss in source.losses.values())
    assert source.summary() == (
        f"weights as int4: {100 * mean:.3f}% mean relative error against the checkpoint, "
        f"worst {100 * source.losses[worst].relative:.3f}% ({worst})"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [name for name in QUANTISED if name != "bf16"])
def test_a_value_that_is_no_number_is_refused_not_rounded(name: str, value: float) -> None:
    """As whole numbers it would be some other value, and nobody would see."""
    config = small_config()
    stored = DictSource(config, random_weights(config, 1))
    victim = "model.layers.1.mlp.experts.3.down_proj.weight"
    stored.tensors[victim][2, 7] = value
    source = Converted(stored, tensor_specs(config), recipe(name))
    with pytest.raises(CheckpointError, match=victim):
        build(config, source, "float32")


def test_an_unknown_name_is_refused_with_the_closest_one(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"--weights int4_g64 is not known \(did you mean int4_g"):
        load_model(checkpoint.folder, weights="int4_g64")


def test_the_refusal_counts_converted_bytes_and_says_what_fits(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {name: converted(checkpoint, name).total_bytes for name in RECIPES}
    monkeypatch.setattr("fullbore.hardware.device.free_memory_bytes", lambda: sizes["int4"])
    load_model(checkpoint.folder, "float32", weights="int4")
    with pytest.raises(CapacityError, match=r"of weights as int8.*--weights int4"):
        load_model(checkpoint.folder, "float32", weights="int8")
    monkeypatch.setattr("fullbore.hardware.device.free_memory_bytes", lambda: 1000)
    with pytest.raises(CapacityError, match="larger machine"):
        load_model(checkpoint.folder, "float32", weights="int4")


def test_the_source_is_let_go_of(tmp_path: Path) -> None:
    config = small_config()
    stored = DictSource(config, random_weights(config, 1))
    build(config, Converted(stored, tensor_specs(config), recipe("int8")), "float32")
    assert set(stored.released) == set(stored.tensors)
