"""A network cut over devices is the network: the same logits, with real exchanges between threads."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import TORCH, ranks, together
from small_models import DictSource, PagedRun, random_weights, small_config
from torch import Tensor

from fullbore.errors import UsageError
from fullbore.model.config import ModelConfig
from fullbore.model.load import build
from fullbore.model.share import held_specs
from fullbore.model.specs import tensor_specs
from fullbore.parallel.layout import Layout, parse_layout, possible_layouts
from fullbore.parallel.rank import Rank, Role

SIZES = {"vocab_size": 104, "num_hidden_layers": 2, "v_head_dim": 16}  # no cut falls between two FP8 blocks
SEQUENCES = [
    [3, 7, 50, 2, 9, 11, 12],
    [60, 4, 4, 80, 33, 5, 6],
    [103, 102, 1, 0, 8, 9, 10],
    [1, 2, 3, 4, 5, 6, 7],
]
SCHEDULE = [[5], [1], [1]]
LAYOUTS = [layout for count in (2, 4) for layout in possible_layouts(small_config(**SIZES), count)]
MANY = parse_layout("tp2dp2ep2")


@pytest.fixture(autouse=True)
def one_thread_a_device() -> Iterator[None]:
    """Threads of torch's own beside those of the devices spin for the cores that the others wait for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def source(fp8: bool, **changes: object) -> DictSource:
    config = small_config(**SIZES, **changes)
    return DictSource(config, random_weights(config, 4), fp8)


@cache
def whole(fp8: bool, **changes: object) -> list[Tensor]:
    """The logits of each sequence by the network on one device."""
    held = source(fp8, **changes)
    model = build(held.config, held, "float32", TORCH)
    return [PagedRun(model, [each], 4, seed=2).finish(SCHEDULE)[0] for each in SEQUENCES]


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.booleans(),
    st.sampled_from([{}, {"q_lora_rank": None}, {"n_shared_experts": 0}]),
)
def test_the_logits_are_those_of_the_whole(layout: Layout, fp8: bool, changes: dict[str, object]) -> None:
    held = source(fp8, **changes)
    world, models = ranks(held.config, held, layout)

    def run(index: int, model: object) -> Tensor:
        return PagedRun(model, [SEQUENCES[index // layout.tp]], 4, seed=2).finish(SCHEDULE)[0]  # type: ignore[arg-type]

    for index, logits in enumerate(together(world, models, run)):
        expected = whole(fp8, **changes)[index // layout.tp]
        assert float((logits - expected).norm() / expected.norm()) < 1e-4


@given(st.sampled_from(LAYOUTS))
def test_the_parts_add_up_to_the_whole(layout: Layout) -> None:
    """Every number is on some device; what is whole on all of them counts as often."""
    config = small_config(**SIZES, num_nextn_predict_layers=1)
    specs = {name: spec for name, spec in tensor_specs(config).items() if not spec.optional}
    parts = [held_specs(specs, config, Role(Rank(layout, index))) for index in range(layout.devices)]
    for name, spec in specs.items():
        held = [part[name].elements for part in parts if name in part]
        copies = len(held) if held[0] == spec.elements else sum(held) // spec.elements
        assert sum(held) == copies * spec.elements
        if ".mlp.experts." in name or name == "lm_head.weight":
            assert copies == 1
        elif held[0] < spec.elements:
            assert copies == layout.dp
        else:
            assert copies == layout.devices


def uneven(**changes: object) -> tuple[dict[str, object], ModelConfig]:
    config = small_config(**SIZES | changes)
    return dict(tensor_specs(config)), config


def test_a_cut_that_is_not_even_is_refused_with_those_that_are() -> None:
    specs, config = uneven(vocab_size=101)
    with pytest.raises(
        UsageError, match=r"tp2 cannot cut lm_head.weight \[101, 64\] into 2 equal parts; .*none"
    ):
        held_specs(specs, config, Role(Rank(Layout(tp=2))))  # type: ignore[arg-type]
    specs, config = uneven(intermediate_size=98, num_attention_heads=4)
    with pytest.raises(UsageError, match=r"tp4 cannot cut .* on 4 devices possible: dp4, ep2dp4"):
        held_specs(specs, config, Role(Rank(Layout(tp=4))))  # type: ignore[arg-type]
    specs, config = uneven(tie_word_embeddings=True)
    with pytest.raises(UsageError, match="tie_word_embeddings"):
        held_specs(specs, config, Role(Rank(Layout(tp=2))))  # type: ignore[arg-type]


def test_a_cut_through_fp8_blocks_is_refused() -> None:
    config = small_config(**SIZES | {"intermediate_size": 320})
    held = DictSource(config, random_weights(config, 4), fp8=True)
    with pytest.raises(
        UsageError, match=r"cuts model.layers.0.mlp.gate_proj.weight at 160, inside a block of 128"
    ):
        ranks(config, held, Layout(tp=2))


@pytest.mark.parametrize(("distinct", "dense", "expected"), [
    (0, 3, [0, 1, 2, 3, 4, 5, 6]),
    (7, 3, [0, 1, 2, 3, 4, 5, 6]),
    (5, 3, [0, 1, 2, 3, 4, 3, 4]),
    (4, 3, [0, 1, 2, 3, 3, 3, 3]),
    (3, 3, [0, 1, 0, 3, 3, 3, 3]),
    (2, 3, [0, 0, 0, 3, 3, 3, 3]),
    (2, 0, [0, 1, 0, 1, 0, 1, 0]),
    (1, 0, [0] * 7),
])  # fmt: skip
def test_layers_share_weights_of_their_own_kind(distinct: int, dense: int, expected: list[int]) -> None:
    role = Role(distinct_layers=distinct)
    assert [role.weights_of(layer, dense) for layer in range(7)] == expected


def test_layers_that_share_weights_compute_alike_but_for_their_caches() -> None:
    config = small_config(**SIZES | {"num_hidden_layers": 4})
    held = DictSource(config, random_weights(config, 4))
    shared = dict(held.tensors)
    for name in list(shared):
        if name.startswith(("model.layers.2.", "model.layers.3.")):
            shared[name] = shared["model.layers.1." + name.split(".", 3)[3]]
    expected = build(config, DictSource(config, shared), "float32", TORCH)
    model = build(config, held, "float32", TORCH, role=Role(distinct_layers=2))
    assert len({id(layer) for layer in model.layers}) == 2
    assert len(model.new_cache(1, 4)) == 4
    assert 0.4 < model.bytes / expected.bytes < 0.7
    runs = [PagedRun(each, [SEQUENCES[0]], 4, seed=2).finish(SCHEDULE)[0] for each in (model, expected)]
    assert torch.equal(*runs)
