"""Compile Triton kernels, without a GPU, for the GPU named on the command line: one JSON line for each.

    python tests/kernels/on_triton/compiling.py sm_90|gfx942 [--operator NAME]... [--variant NAME]
        [--format NAME] [--layout tp8|tp4|ep8] [--tokens N]

Operators run on tensors without values at the shapes of one rank of the 671B model, on eight GPUs with split
matrices (tp8) or with whole attention and a share of the experts (ep8), and attention on four GPUs (tp4).
What they would launch is compiled, so tiles, types and alignment are those of a real run.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fullbore.kernels.triton import KERNELS
from fullbore.kernels.triton.device import CDNA_LOCAL_BYTES, HOPPER_LOCAL_BYTES, Target
from fullbore.model.presets import PRESETS
from fullbore.ops.attention import Heads
from fullbore.ops.cache import CacheRow
from fullbore.ops.collectives import COLLECTIVES
from fullbore.ops.contract import Job
from fullbore.ops.formats import outline
from fullbore.ops.operators import OPERATORS
from fullbore.ops.route import Routing
from fullbore.parallel.collectives import Links
from fullbore.parallel.rank import Exchange

TYPES = {
    torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64", torch.int8: "*i8",
    torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64", torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e4m3fnuz: "*fp8e4b8",
}  # fmt: skip
GPUS = {"sm_90": GPUTarget("cuda", 90, 32), "gfx942": GPUTarget("hip", "gfx942", 64)}
MATRIX = {"sm_90": r"\b(?:wgmma|mma)\.[\w.:]*", "gfx942": r"\bv_mfma_\w+"}  # products on tensor cores
TOKENS = (16, 158, 1024)
CONTEXT = 640
LAYOUTS = ("tp8", "tp4", "ep8")


@dataclass(frozen=True)
class Compiler(Target):
    """A target whose launches compile. ``found``: what came out, by kernel, constants and argument types."""

    gpu: str = ""
    found: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def launch(
        self, kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 3, **meta: Any
    ) -> None:
        stages = stages if self.roomy else min(stages, 2)
        types: dict[str, str] = {}
        constants: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], Any] = {}
        given = {**dict(zip(kernel.arg_names, args, strict=False)), **meta}
        for index, name in enumerate(kernel.arg_names):
            value = given[name]
            if name in meta or (isinstance(value, int) and value == 1):
                types[name], constants[index,] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                types[name] = TYPES[value.dtype]
                if value.storage_offset() * value.element_size() % 16 == 0:
                    attributes[index,] = [["tt.divisibility", 16]]
            elif isinstance(value, int):
                types[name] = "i32"
                if value % 16 == 0:
                    attributes[index,] = [["tt.divisibility", 16]]
            else:
                types[name] = "fp32"
        key = kernel.__name__, repr((types, constants, attributes, warps, stages))
        if key not in self.found:
            began = time.perf_counter()
            source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=attributes)
            options = {"num_warps": warps, "num_stages": stages}
            made = triton.compile(source, target=GPUS[self.gpu], options=options)
            self.found[key] = self.look(made) | {"kernel": kernel.__name__, "grid": list(grid)}
            self.found[key] |= {
                "seconds": round(time.perf_counter() - began, 2),
                "warps": warps,
                "stages": stages,
            }
            self.found[key]["tile"] = {name: meta[name] for name in sorted(meta) if "BLOCK_" in name}

    def look(self, made: Any) -> dict[str, Any]:
        """Local memory, registers, bytes spilled (of a thread), instructions that multiply matrices."""
        text = made.asm["ptx" if self.gpu == "sm_90" else "amdgcn"]
        seen = {
            "local_bytes": made.metadata.shared,
            "matrix": sorted(set(re.findall(MATRIX[self.gpu], text))),
        }
        if self.gpu == "sm_90":
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(made.asm["cubin"])
                file.flush()
                tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
                usage = subprocess.run(
                    [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
                )
            numbers = dict(re.findall(r"(REG|STACK):(\d+)", usage.stdout + usage.stderr))
            return seen | {"registers": int(numbers["REG"]), "spilled_bytes": int(numbers["STACK"])}
        numbers = dict(re.findall(r"\.(vgpr_count|agpr_count|private_segment_fixed_size):\s*(\d+)", text))
        return seen | {
            "registers": int(numbers["vgpr_count"]),
            "spilled_bytes": int(numbers["private_segment_fixed_size"]),
        }


@dataclass(frozen=True)
class Rank:
    """Sizes of one of eight ranks. ``shared``: the shared expert's width."""

    heads: int
    experts: int
    inter: int
    shared: int
    linears: tuple[tuple[int, int], ...]  # [out, in]


def rank(layout: str) -> Rank:
    """``tp8``: every matrix cut in eight; ``ep8``: whole attention, an eighth of the experts."""
    c = PRESETS["deepseek-v3"]
    cut = {"tp8": 8, "tp4": 4, "ep8": 1}[layout]
    heads, hidden, inter = c["num_attention_heads"] // cut, c["hidden_size"], c["moe_intermediate_size"]
    down = c["q_lora_rank"] + c["kv_lora_rank"] + c["qk_rope_head_dim"]
    q = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
    linears = (down, hidden), (q, c["q_lora_rank"]), (hidden, heads * c["v_head_dim"])
    experts = c["n_routed_experts"] // (8 if layout == "ep8" else 1)
    return Rank(heads, experts, inter // cut, inter // cut, linears)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def cases(
    operator: str, layout: str, tokens: int, format: str
) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """(weights, inputs) of an operator in one step of ``tokens``."""
    c, sizes = PRESETS["deepseek-v3"], rank(layout)
    hidden, latent, rope = c["hidden_size"], c["kv_lora_rank"], c["qk_rope_head_dim"]
    x = empty(tokens, hidden)
    if operator == "linear":
        for out, in_ in sizes.linears:
            yield (outline((out, in_), format),), (empty(tokens, in_),)
    if operator == "swiglu":
        inter = c["intermediate_size"] // (8 if layout == "tp8" else 1)
        gate, down = outline((inter, hidden), format), outline((hidden, inter), format)
        yield (gate, gate, down), (x,)
    if operator == "moe_ffn":
        gate, down = outline((sizes.inter, hidden), format), outline((hidden, sizes.inter), format)
        experts = [(gate, gate, down)] * (sizes.experts + 1)
        k = c["num_experts_per_tok"]
        cut = (sizes.experts, c["n_routed_experts"]) if layout == "ep8" else ()
        yield (
            (experts, sizes.experts, *cut),
            (x, empty(tokens, k, dtype=torch.int64), empty(tokens, k, dtype=torch.float32)),
        )
    yield from small_cases(operator, layout, tokens)
    if operator.startswith("mla"):
        for bits in (0, 8):
            heads = Heads(sizes.heads, c["qk_nope_head_dim"], rope, c["v_head_dim"], latent, 0.135, bits)
            weights = outline((heads.count * (heads.nope + heads.v), latent), "bf16"), heads
            pages = -(-(CONTEXT + tokens) // 64)
            cache = empty(99, 64, heads.row.width, dtype=heads.row.type(torch.bfloat16))
            q = empty(tokens, heads.count, heads.nope + rope)
            if operator == "mla_decode":
                at = empty(tokens, pages, dtype=torch.int32), empty(tokens, dtype=torch.int32)
                yield weights, (q, cache, *at)
            else:
                yield weights, (q, cache, empty(pages, dtype=torch.int32), CONTEXT)


def small_cases(operator: str, layout: str, tokens: int) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Those of operators without matrices."""
    c, sizes = PRESETS["deepseek-v3"], rank(layout)
    hidden, latent, rope, q = c["hidden_size"], c["kv_lora_rank"], c["qk_rope_head_dim"], c["q_lora_rank"]
    x, vocab = empty(tokens, hidden), c["vocab_size"] // (8 if layout == "tp8" else 1)
    angles = (empty(tokens, rope // 2, dtype=torch.float32),) * 2
    norm = torch.empty(hidden, device="meta"), c["rms_norm_eps"]
    if operator == "embed":
        yield (outline((vocab, hidden), "bf16"),), (empty(tokens, dtype=torch.int64),)
    if operator == "greedy":
        yield (vocab,), (empty(tokens, vocab),)
    if operator == "sample":
        of_row = (torch.float32, torch.int64, torch.float64, torch.float64, torch.float64)
        yield (vocab,), (empty(tokens, vocab), *(empty(tokens, dtype=dtype) for dtype in of_row))
    if operator == "rms_norm":
        yield norm, (x,)
    if operator == "add_rms_norm":
        yield norm, (x, x)
    if operator == "rope":
        yield (), (empty(tokens, sizes.heads, c["qk_nope_head_dim"] + rope), *angles)
    if operator == "route":
        experts, k = c["n_routed_experts"], c["num_experts_per_tok"]
        routing = Routing(k, c["n_group"], c["topk_group"], True, c["routed_scaling_factor"])
        yield (empty(experts, hidden), torch.empty(experts, device="meta"), routing), (x,)
    if operator == "draw_experts":
        yield (empty(8192, dtype=torch.int32), c["num_experts_per_tok"]), (x,)
    if operator in COLLECTIVES:
        exchange = Exchange(Links(8, "mesh", 448e9, 5e-6), 1 if layout == "tp8" else 8)
        everyone = operator in ("scatter", "gather_columns")
        yield (exchange,), (empty(tokens * exchange.groups if everyone else tokens, hidden),)
    if operator == "latents":
        for bits in (0, 8):
            row = CacheRow(latent, rope, bits)
            norms = torch.empty(q, device="meta"), torch.empty(latent, device="meta")
            cache = empty(99, 64, row.width, dtype=row.type(torch.bfloat16))
            slots = empty(tokens, dtype=torch.int64)
            yield (*norms, c["rms_norm_eps"], row), (empty(tokens, q + latent + rope), *angles, cache, slots)


def main(arguments: argparse.Namespace) -> None:
    gpu = arguments.gpu
    local, fnuz = (HOPPER_LOCAL_BYTES, False) if gpu == "sm_90" else (CDNA_LOCAL_BYTES, True)
    for entry in KERNELS:
        if arguments.operator and entry.operator not in arguments.operator:
            continue
        if arguments.variant not in (None, entry.name):
            continue
        kernel = entry.load()
        target = Compiler("meta", 132 if gpu == "sm_90" else 304, local, fnuz, fnuz, gpu=gpu)
        made = kernel("bfloat16", target)
        told = 0
        for layout in (arguments.layout,) if arguments.layout else LAYOUTS:
            others = "tp8" if kernel.family else "ep8"
            if layout not in ("tp8", others) and not entry.operator.startswith("mla"):
                continue
            # Of several that differ in sizes alone the first is compiled for everything.
            formats = (kernel.formats[0], kernel.formats[-1]) if kernel.family else kernel.formats
            for format in (each for each in formats if arguments.format in (None, each)):
                for tokens in (arguments.tokens,) if arguments.tokens else TOKENS[bool(kernel.family) :]:
                    for weights, inputs in cases(entry.operator, layout, tokens, format):
                        job = Job.of(OPERATORS[entry.operator], weights, "bfloat16", "cuda")
                        if kernel.misfits(job, target):
                            continue
                        made.run(made.pack(*weights), *inputs)
                        for line in list(target.found.values())[told:]:
                            about = {"operator": entry.operator, "variant": entry.name, "layout": layout}
                            print(json.dumps(about | {"format": format, "tokens": tokens} | line), flush=True)
                        told = len(target.found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("gpu", choices=GPUS)
    parser.add_argument("--operator", action="append")
    parser.add_argument("--variant")
    parser.add_argument("--format")
    parser.add_argument("--layout", choices=LAYOUTS)
    parser.add_argument("--tokens", type=int)
    main(parser.parse_args())
