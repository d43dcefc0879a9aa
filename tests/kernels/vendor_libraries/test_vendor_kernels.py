"""Adapters to other libraries, with doubles of these: what they are called with, and that a wrong one is
refused. None of the libraries was at hand."""

import sys
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from doubles import Doubles, forget_adapters

from fullbore.kernels.vendor import KERNELS
from fullbore.kernels.vendor import kernel as common
from fullbore.ops.candidates import Loser, NoEvidence, consider
from fullbore.ops.contract import Job
from fullbore.ops.registry import Entry, NotInstalled, Registry
from fullbore.tune.gate import Gate

SIZES = {"k": 2, "page": 64}
SHAPES = {
    "linear": {"in": 384, "out": 256},
    "moe_ffn": {"experts": 4, "hidden": 128, "inter": 128, "shared": 128},
    "mla_decode": {"heads": 16, "nope": 32, "rope": 64, "v": 32, "latent": 512},
}
FORMATS = {"torch_grouped": "bf16"}
ALL = pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: f"{entry.operator}-{entry.name}")
Install = Callable[..., Doubles]


def job(entry: Entry, **changes: int) -> Job:
    shape = {**SHAPES[entry.operator], **changes}
    format = FORMATS.get(entry.name, "fp8_block")
    return Job(entry.operator, tuple(sorted(shape.items())), format, "bfloat16", "cuda")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    def installed(entry: Entry, scale: float = 1.0, architecture: str = "") -> Doubles:
        doubles = Doubles(scale)
        for name, module in doubles.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        forget_adapters()
        amd = "gfx950" if entry.name == "aiter" else "sm_90"
        monkeypatch.setattr(common, "architecture", lambda: architecture or amd)
        if entry.name == "torch_scaled":
            monkeypatch.setattr(F, "scaled_mm", doubles.scaled_mm)
        return doubles

    yield installed
    forget_adapters()


@ALL
def test_it_computes_what_the_operator_asks(entry: Entry, install: Install) -> None:
    doubles = install(entry)
    kernel = entry.load()
    assert kernel.unsupported(job(entry)) == []
    verdict = Gate(SIZES, lambda: 1.0).examine(job(entry), kernel)
    assert verdict.passed, verdict.reason
    assert doubles.calls or entry.name == "torch_grouped", "which is torch's own, and ran"


@ALL
def test_a_library_that_is_wrong_is_refused(
    entry: Entry, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(entry, scale=1.3)
    if entry.name == "torch_grouped":
        right = F.grouped_mm
        monkeypatch.setattr(F, "grouped_mm", lambda *args, **more: 1.3 * right(*args, **more))
    verdict = Gate(SIZES, lambda: 1.0).examine(job(entry), entry.load())
    assert not verdict.passed
    assert "its error is" in verdict.reason


@ALL
def test_another_architecture_is_a_reason(entry: Entry, install: Install) -> None:
    install(entry, architecture="sm_75")
    (reason,) = entry.load().unsupported(job(entry))
    assert reason.endswith("this is sm_75")


@pytest.mark.parametrize(
    ("operator", "changes", "words"),
    [
        ("linear", {"in": 200}, "takes multiples of 128 as in, not 200"),
        ("moe_ffn", {"shared": 256}, "a shared expert as wide as the others"),
        ("moe_ffn", {"inter": 100, "shared": 100}, "as inter, not 100"),
        ("mla_decode", {"latent": 256}, "rows of 512 + 64 values in the cache, not 256 + 64"),
        ("mla_decode", {"kv_bits": 8}, "a cache in bfloat16"),
    ],
)
def test_what_does_not_fit_is_a_reason(
    operator: str, changes: dict[str, int], words: str, install: Install
) -> None:
    for entry in KERNELS:
        if entry.operator == operator:
            install(entry)
            assert words in " ".join(entry.load().unsupported(job(entry, **changes))), entry.name


def test_pages_of_another_size_are_refused_with_advice(install: Install) -> None:
    (entry,) = (entry for entry in KERNELS if entry.name == "flash_mla")
    install(entry)
    verdict = Gate({"page": 16}, lambda: 1.0).examine(job(entry), entry.load())
    assert "FlashMLA takes pages of 64 tokens, not 16 (use --page-size 64)" in verdict.reason


def test_matrices_without_common_blocks_are_refused() -> None:
    from fullbore.ops.formats import quantise_fp8_block

    parts = tuple(quantise_fp8_block(torch.ones(rows, 128)) for rows in (100, 128))
    with pytest.raises(ValueError, match="no common blocks of 128"):
        common.stacked(parts)


@ALL
def test_what_is_not_installed_is_no_loss(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_adapters()
    monkeypatch.setattr(common, "architecture", lambda: "")
    if entry.name.startswith("torch_"):
        assert entry.load().unsupported(job(entry))[0].endswith("this is no GPU")
        return
    with pytest.raises(NotInstalled, match=r" is not installed \((pip install|build) "):
        entry.load()


def test_nobody_is_told_of_libraries_that_nobody_had(install: Install) -> None:
    (ours,) = (entry for entry in KERNELS if entry.name == "torch_grouped")
    absent = Entry(
        "moe_ffn", "flashinfer", "fullbore.kernels.vendor.flashinfer_products:FlashInferMoeFfn", ("cuda",)
    )
    install(ours)
    for name in ("flashinfer", "flashinfer.fused_moe"):
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        found = consider(job(ours), Registry([ours, absent]), NoEvidence())
    finally:
        for name in ("flashinfer", "flashinfer.fused_moe"):
            del sys.modules[name]
    told = "FlashInfer is not installed (pip install flashinfer-python)"
    assert found.losers == (Loser("flashinfer", (told,), None, able=False, by_design=True),)


def test_the_shapes_of_a_rank_are_taken_by_all(install: Install) -> None:
    """Of the 671B model, TP8: q_a + kv_a has an odd width, which one of them does not take."""
    shapes = {
        "linear": [(2112, 7168), (3072, 1536), (7168, 2048)],
        "moe_ffn": {"experts": 256, "hidden": 7168, "inter": 256, "shared": 256},
        "mla_decode": {"heads": 16, "nope": 128, "rope": 64, "v": 128, "latent": 512},
    }
    refused = []
    for entry in KERNELS:
        install(entry)
        given = shapes[entry.operator]
        each = [{"out": o, "in": i} for o, i in given] if isinstance(given, list) else [given]
        refused += [
            (entry.name, shape["out"]) for shape in each if entry.load().unsupported(job(entry, **shape))
        ]
    assert refused == [("sgl_kernel", 2112)]
