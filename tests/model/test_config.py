"""config.json: what is honoured, what is refused by name, and what other tools write."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

from fullbore.errors import ConfigError
from fullbore.model.config import ModelConfig, load_config, parse_config
from fullbore.model.presets import PRESETS
from fullbore.model.specs import count_parameters, is_mtp, tensor_specs

V3 = PRESETS["deepseek-v3"]
# Without these there is no telling what the network looks like.
REQUIRED = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "first_k_dense_replace",
    "intermediate_size", "moe_intermediate_size", "num_attention_heads", "q_lora_rank", "kv_lora_rank",
    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "num_experts_per_tok",
    "n_group", "topk_group", "routed_scaling_factor", "max_position_embeddings",
)  # fmt: skip


def published(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(V3)), **changes}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Valid configurations in the published spelling."""
    sizes = st.integers(1, 300)
    groups, per_group = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    kept = draw(st.integers(1, groups))
    heads, vocab = draw(st.integers(1, 8)), draw(st.integers(8, 1000))
    yarn = {
        "type": "yarn",
        "factor": draw(st.sampled_from([1, 2.5, 40])),
        "original_max_position_embeddings": draw(st.sampled_from([64, 4096])),
        "beta_fast": draw(st.sampled_from([32, 16.0])),
        "beta_slow": draw(st.sampled_from([1, 2])),
        "mscale": draw(st.sampled_from([1.0, 0.707, 0.0])),
        "mscale_all_dim": draw(st.sampled_from([1.0, 0.707, 0.0, 2])),
    }
    return published(
        vocab_size=vocab,
        hidden_size=draw(sizes),
        num_hidden_layers=draw(st.integers(1, 5)),
        first_k_dense_replace=draw(st.integers(0, 6)),
        intermediate_size=draw(sizes),
        moe_intermediate_size=draw(sizes),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        q_lora_rank=draw(st.none() | sizes),
        kv_lora_rank=draw(sizes),
        qk_nope_head_dim=draw(sizes),
        qk_rope_head_dim=2 * draw(st.integers(1, 40)),
        v_head_dim=draw(sizes),
        n_routed_experts=groups * per_group,
        n_shared_experts=draw(st.integers(1, 3)),
        num_experts_per_tok=draw(st.integers(1, kept * per_group)),
        n_group=groups,
        topk_group=kept,
        norm_topk_prob=draw(st.booleans()),
        routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
        num_nextn_predict_layers=draw(st.integers(0, 2)),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        rope_theta=draw(st.sampled_from([10000, 50000.0])),
        rope_scaling=draw(st.none() | st.just(yarn)),
        max_position_embeddings=draw(st.integers(64, 10000)),
        tie_word_embeddings=draw(st.booleans()),
        bos_token_id=draw(st.none() | st.integers(0, vocab - 1)),
        eos_token_id=draw(st.none() | st.integers(0, vocab - 1) | st.lists(st.integers(0, vocab - 1))),
        quantization_config=draw(st.none() | st.just(V3["quantization_config"])),
    )


@given(configs())
@settings(max_examples=50, deadline=None)
def test_every_field_is_honoured(fields: dict[str, Any]) -> None:
    config = parse_config(fields)
    for field in dataclasses.fields(ModelConfig):
        if field.name in fields:
            assert getattr(config, field.name) == fields[field.name], field.name
    ends = fields["eos_token_id"]
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    assert config.eos_token_ids == tuple(dict.fromkeys(ends))
    assert config.quantised == (fields["quantization_config"] is not None)
    scaling = fields["rope_scaling"] or {}
    assert config.rope.theta == fields["rope_theta"]
    for name in ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
        if scaling:
            assert getattr(config.rope, name) == scaling[name]


@given(configs())
@settings(max_examples=30, deadline=None)
def test_what_transformers_saves_reads_the_same(fields: dict[str, Any]) -> None:
    for name in ("quantization_config", "topk_method", "scoring_func"):  # what it does not write
        del fields[name]
    fields["eos_token_id"] = fields["eos_token_id"] or None
    theirs = DeepseekV3Config(**json.loads(json.dumps(fields)))
    saved = json.loads(theirs.to_json_string())
    assert "rope_parameters" in saved
    assert "topk_method" not in saved
    assert parse_config(saved) == parse_config(fields)


@given(configs())
@settings(max_examples=30, deadline=None)
def test_both_mscales_act_as_in_transformers(fields: dict[str, Any]) -> None:
    del fields["quantization_config"]
    fields["eos_token_id"] = 1
    theirs = DeepseekV3Config(**json.loads(json.dumps(fields)))
    theirs._attn_implementation = "eager"
    ours = parse_config(fields)
    expected = DeepseekV3Attention(theirs, 0).scaling
    assert ours.softmax_scale == pytest.approx(expected, rel=1e-12)
    if fields["rope_scaling"]:
        _, factor = ROPE_INIT_FUNCTIONS["yarn"](theirs)
        assert ours.rope.cos_sin_scale == pytest.approx(factor, rel=1e-12)
    else:
        assert ours.rope.cos_sin_scale == 1.0


def test_the_671b_model() -> None:
    """Figures of the published checkpoint."""
    config = parse_config(published())
    specs = tensor_specs(config)
    main = [spec for name, spec in specs.items() if not is_mtp(config, name)]
    scales = [math.prod(spec.scale_shape) for spec in specs.values() if spec.kind == "linear"]
    values = {"linear": 1, "matrix": 2, "norm": 2, "bias": 4}  # bytes of one
    assert len(specs) + len(scales) == 91_991
    assert sum(spec.elements for spec in main) == count_parameters(config).main == 671_026_419_200
    assert round(sum(spec.elements * values[spec.kind] for spec in main) / 1e9, 2) == 672.99
    assert round(count_parameters(config).active / 1e9, 2) == 37.55
    assert config.num_hidden_layers * config.latent_dim == 35_136
    assert config.softmax_scale == pytest.approx(0.1352338, abs=1e-7)
    assert config.rope.cos_sin_scale == 1.0
    whole = sum(spec.elements * values[spec.kind] for spec in specs.values()) + 4 * sum(scales)
    assert whole == 688_574_839_360


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_named(name: str) -> None:
    fields = published()
    del fields[name]
    with pytest.raises(ConfigError, match=name):
        parse_config(fields)


@pytest.mark.parametrize("name", [name for name in REQUIRED if name != "model_type"])
@pytest.mark.parametrize("value", ["7168", True, -1, [7], 1.5e300, {"a": 1}])
def test_a_wrong_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is .*expected"):
        parse_config(published(**{name: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "deepseek_v32"),
        ("model_type", "llama"),
        ("architectures", ["DeepseekV2ForCausalLM"]),
        ("scoring_func", "softmax"),
        ("topk_method", "group_limited_greedy"),
        ("hidden_act", "gelu"),
        ("moe_layer_freq", 2),
        ("ep_size", 8),
        ("attention_bias", True),
        ("rope_interleave", False),
        ("num_key_value_heads", 8),
        ("head_dim", 128),
        ("qk_head_dim", 128),
        ("qk_rope_head_dim", 63),
        ("n_group", 7),
        ("n_group", 256),
        ("topk_group", 9),
        ("num_experts_per_tok", 129),
        ("first_k_dense_replace", -1),
        ("num_hidden_layers", 10**9),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", float("nan")),
        ("norm_topk_prob", 1),
        ("tie_word_embeddings", "no"),
        ("bos_token_id", 129280),
        ("eos_token_id", [1, 129280]),
        ("eos_token_id", "1"),
        ("num_mtp_layers", 2),
        ("num_local_experts", 8),
        ("rope_theta", 1),
        ("n_routed_experts", 1 << 16),  # in 61 layers
    ],
)
def test_what_is_not_supported_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        parse_config(published(**{field: value}))


@pytest.mark.parametrize(
    ("outer", "field", "value"),
    [
        ("rope_scaling", "type", "linear"),
        ("rope_scaling", "rope_type", "default"),
        ("rope_scaling", "factor", 0.5),
        ("rope_scaling", "factor", None),
        ("rope_scaling", "truncate", False),
        ("rope_scaling", "partial_rotary_factor", 0.5),
        ("rope_scaling", "beta_fast", -1),
        ("rope_scaling", "short_factor", [1.0]),
        ("rope_scaling", "rope_theta", 2),
        ("quantization_config", "quant_method", "gptq"),
        ("quantization_config", "fmt", "e5m2"),
        ("quantization_config", "activation_scheme", "static"),
        ("quantization_config", "weight_block_size", [64, 64]),
        ("quantization_config", "weight_block_size", None),
        ("quantization_config", "scale_fmt", "e4m3"),
        ("quantization_config", "bits", 8),
    ],
)
def test_nested_fields_are_refused_by_name(outer: str, field: str, value: Any) -> None:
    fields = published()
    fields[outer][field] = value
    with pytest.raises(ConfigError, match=field):
        parse_config(fields)


def test_scaling_without_a_type_is_not_taken_for_plain() -> None:
    with pytest.raises(ConfigError, match="factor is 40"):
        parse_config(published(rope_scaling={"factor": 40}))


def test_fields_of_real_files_load() -> None:
    extras = {
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "aux_loss_alpha": 0.001,
        "seq_aux": True,
        "pretraining_tp": 1,
        "transformers_version": "4.33.1",
        "output_attentions": False,
        "chunk_size_feed_forward": 0,
        "id2label": {"0": "LABEL_0"},
        "return_dict": True,
        "head_dim": 64,
        "pad_token_id": 2,
        "rope_interleave": True,
        "dtype": "bfloat16",
        "_name_or_path": "somewhere",
        "some_future_feature": None,
        "another_future_feature": False,
    }
    expected = parse_config(published())
    assert parse_config(published(**extras)) == expected
    v31 = published()
    v31["quantization_config"]["scale_fmt"] = "ue8m0"
    assert parse_config(v31) == expected
    saved = published(num_nextn_predict_layers=None, topk_method=None, scoring_func=None)
    assert parse_config(saved) == dataclasses.replace(expected, num_nextn_predict_layers=0)


def test_an_unknown_field_that_is_set_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"norm_topk_probs \(= true\).*did you mean norm_topk_prob"):
        parse_config(published(norm_topk_probs=True))
    fields = published(vocabsize=10)
    del fields["vocab_size"]
    with pytest.raises(ConfigError, match=r"vocab_size is missing \(it has 'vocabsize'\)"):
        parse_config(fields)
    with pytest.raises(ConfigError, match=r"use_qk_norm .* is not known"):
        parse_config(published(use_qk_norm=True))


@given(
    st.sampled_from(sorted(V3)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "factor"]), inner)
        ),
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_value_gives_a_config_or_a_config_error(name: str, value: Any) -> None:
    try:
        parse_config(published(**{name: value}))
    except ConfigError as error:
        says = str(error)
    else:
        return
    assert says.startswith("config.json")


def write(folder: Path, config: Any, generation: Any = None) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_end_tokens_of_both_files_are_joined(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, published(eos_token_id=[7, 1]), {"eos_token_id": [1, 9]}))
    assert config.eos_token_ids == (7, 1, 9)


def test_a_wrong_end_token_is_blamed_on_the_file_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generation_config\.json: eos_token_id is 129280, .*129280"):
        load_config(write(tmp_path, published(), {"eos_token_id": 129280}))


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit('ran')")
    write(tmp_path, published(auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}))
    load_config(tmp_path)
    assert "modeling_evil" not in sys.modules


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("[" * 100_000, "not valid JSON"),
        ('{"architectures": ["\\ud800"]}', "not valid JSON"),  # half of a pair
        ('{"vocab_size": ' + "9" * 5000 + "}", "not valid JSON"),
        ('"' + "x" * (5 << 20) + '"', "more than"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "not valid JSON"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(write(tmp_path, text))
    assert "config.json" in str(caught.value)


def test_no_config_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_config(tmp_path)
