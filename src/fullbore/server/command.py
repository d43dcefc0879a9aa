"""``fullbore serve MODEL``: flags, and what the terminal shows."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fullbore.engine.client import EngineClient
from fullbore.engine.emulation import LINKS, USUAL_ROUTING, emulation_of
from fullbore.engine.options import EngineOptions
from fullbore.errors import UsageError
from fullbore.flags import whole_number
from fullbore.hardware.device import DEVICES
from fullbore.model.config import load_config
from fullbore.model.presets import PRESETS
from fullbore.model.weights import add_weights_flag
from fullbore.ops.setting import KV_CACHE_DTYPES
from fullbore.scenario.scenario import load_scenario
from fullbore.server.auth import Keys
from fullbore.server.first_tune import MODES, FirstTune
from fullbore.server.limits import Limits
from fullbore.server.model_folder import model_folder
from fullbore.server.service import Service, Settings
from fullbore.server.serving import OnProgress, bind, serve
from fullbore.server.terminal import Terminal
from fullbore.server.tokenizer import Tokenizer

LOG_LEVELS = ("debug", "info", "warning", "error")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="'demo', a checkpoint folder, or org/name from the Hugging Face cache")

    http = parser.add_argument_group("HTTP").add_argument
    http("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    http("--port", type=_port, default=8000, help="0 chooses a free one (default: 8000)")
    http(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="clients must send it; repeat for several",
    )
    http("--served-model-name", action="append", default=[], metavar="NAME", help="repeat for aliases")
    http(
        "--allowed-origins",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages that may call (CORS)",
    )
    http(
        "--max-body-mb", type=_positive, default=32.0, metavar="MB", help="largest request body (default: 32)"
    )
    http("--request-timeout", type=_not_negative, default=3600.0, metavar="S", help="0: none (default: 3600)")
    http("--shutdown-timeout", type=_not_negative, default=60.0, metavar="S",
         help="for running answers after the first SIGTERM or Ctrl-C (default: 60)")  # fmt: skip
    http("--strict", action="store_true", help="refuse unknown request fields instead of ignoring them")
    http("--vllm-metrics", action="store_true", help="show every metric under the prefix vllm: too")
    http("--log-level", choices=LOG_LEVELS, default="info")

    text = parser.add_argument_group("text").add_argument
    text("--chat-template", type=Path, metavar="FILE", help="instead of the model's own")
    text("--reasoning-parser", choices=("deepseek-r1", "none"), default="deepseek-r1",
         help="split <think> ... </think> from the answer (default: deepseek-r1)")  # fmt: skip

    engine = parser.add_argument_group("engine").add_argument
    engine("--max-model-len", "--context-length", "-c", type=_count, default=0, metavar="TOKENS",
           help="prompt and answer together (default: what model and cache hold)")  # fmt: skip
    engine("--max-num-seqs", "--max-running-requests", type=_count, default=64, metavar="N",
           help="requests in one step (default: 64)")  # fmt: skip
    engine("--max-num-batched-tokens", "--chunked-prefill-size", type=_count, default=512, metavar="TOKENS",
           help="in one step, prompt chunks included (default: 512)")  # fmt: skip
    engine("--max-queued-requests", "--max-num-queued-reqs", type=_count, default=1024, metavar="N",
           help="waiting requests, beyond which a new one gets 503 (default: 1024)")  # fmt: skip
    engine("--kv-gb", type=_not_negative, default=0.0, metavar="GIB", help="paged cache (default: chosen)")
    engine("--kv-cache-dtype", choices=tuple(KV_CACHE_DTYPES), default="auto",
           help="of the cache; fp8 holds almost twice the tokens (default: auto, as computed)")  # fmt: skip
    engine("--page-size", type=_count, default=16, metavar="TOKENS", help="(default: 16)")
    engine("--device", choices=DEVICES, default="auto",
           help="cuda is AMD's GPUs too (default: a GPU where there is one)")  # fmt: skip
    engine("--cuda-graph-max-bs", "--max-cudagraph-capture-size", type=_count, default=0, metavar="N",
           help="requests in the largest graph of decodes on a GPU (default: all, at most 256)")  # fmt: skip
    engine("--disable-cuda-graph", "--enforce-eager", dest="cuda_graph", action="store_false",
           help="launch decodes kernel by kernel")  # fmt: skip
    engine("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    add_weights_flag(engine)
    engine("--threads", type=_count, default=0, metavar="N", help="(default: every core)")
    engine("--tune", choices=MODES, default="auto",
           help="measure kernels first; auto: where the model is new here (default: auto)")  # fmt: skip
    engine("--tune-scenario", default="dialog", metavar="NAME",
           help="whose steps kernels are chosen for: dialog, code, or a .toml file")  # fmt: skip
    engine("--tune-concurrency", type=_count, default=0, metavar="N",
           help="requests of it in flight (default: the scenario's, at most 64)")  # fmt: skip
    engine("--by-tokens", action="store_true",
           help="let kernels differ by a step's tokens (bits then depend on a token's company)")  # fmt: skip
    engine("--enable-prefix-caching", dest="prefix_caching", default=True,
           action=argparse.BooleanOptionalAction, help="reuse what prompts share (default: yes)")  # fmt: skip
    engine("--disable-radix-cache", dest="prefix_caching", action="store_false", help=argparse.SUPPRESS)
    engine(
        "--tensor-parallel-size",
        "--tp-size",
        "--tp",
        type=_count,
        default=1,
        metavar="N",
        help="only 1 so far",
    )
    add_emulation_flags(parser.add_argument_group("one rank of a wider layout, alone").add_argument)
    engine("--trust-remote-code", action="store_true", help=argparse.SUPPRESS)


def add_emulation_flags(add: Callable[..., Any]) -> None:
    """By the ``add_argument`` of a parser or group. What is wrong with them ``emulation_of`` says."""
    add("--emulate-rank", default="", metavar="R/N",
        help="run only device R's part of --layout; answers are meaningless, times are not")  # fmt: skip
    add("--layout", default="", metavar="LAYOUT", help="of the emulated server, such as tp8 or ep8dp8")
    add("--random-weights", action="store_true",
        help="made on the device, without a checkpoint; MODEL may be a preset or a config.json")  # fmt: skip
    add("--links", default="", metavar="NAME",
        help=f"whose times: {', '.join(LINKS)}, or a server (default: as the device)")  # fmt: skip
    add("--routing", default="", metavar="BALANCE",
        help="natural, balanced, or tokens of the busiest device's experts over the mean (default: "
        f"{USUAL_ROUTING} with random weights)")  # fmt: skip
    add("--emulate-layers", type=_count, default=0, metavar="K",
        help="keep the weights of K layers, which the others share (default: of all)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    _refuse(args)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    keys = Keys(args.api_key)
    load_scenario(args.tune_scenario)  # refused now rather than by the engine
    with model_folder(args.model, args.random_weights) as folder, bind(args.host, args.port) as listener:
        config = load_config(folder)
        options = _engine_options(args, folder)
        emulation_of(options, config)  # refused now rather than by the engine
        tokenizer = Tokenizer.load(folder, config.vocab_size, args.chat_template)
        first_tune = FirstTune(args.tune, options)
        service = Service(_settings(args, folder, options), tokenizer)

        async def start(on_progress: OnProgress) -> EngineClient:
            await first_tune.run()
            return await EngineClient.start(options, on_progress)

        terminal = Terminal(service.settings, listener.getsockname(), bool(keys))
        with terminal:
            return serve(service, keys, listener, start, terminal.console(), args.shutdown_timeout)


def _refuse(args: argparse.Namespace) -> None:
    if (args.emulate_rank or args.random_weights) and args.tune in ("quick", "thorough"):
        raise UsageError(
            f"--tune {args.tune} measures whole models with their own weights; expected auto or off with "
            "--emulate-rank and --random-weights (kernels are then chosen by what was measured before)"
        )
    if args.trust_remote_code:
        raise UsageError(
            "--trust-remote-code is never supported: no code of a checkpoint is ever run (leave it out; "
            "a model that needs its own code cannot be served)"
        )
    if not all(map(str.strip, args.served_model_name)):
        raise UsageError("--served-model-name is empty, expected a name that requests can ask for")
    if args.tensor_parallel_size != 1:
        raise UsageError(
            f"--tensor-parallel-size {args.tensor_parallel_size}, expected 1: layouts over several "
            "devices come in a later version"
        )


def _settings(args: argparse.Namespace, folder: Path, options: EngineOptions) -> Settings:
    shown = msgspec.to_builtins(options)
    named = args.model == "demo" or args.model in PRESETS or "/" in args.model
    name = args.model if named and not Path(args.model).exists() else Path(args.model).resolve().name
    shown["model"] = name  # where it lies on this machine is nobody's business
    limits = Limits(body_bytes=int(args.max_body_mb * 2**20), request_timeout_s=args.request_timeout)
    return Settings(
        served=tuple(args.served_model_name) or (name,),
        limits=limits,
        host=args.host,
        strict=args.strict,
        reasoning=args.reasoning_parser != "none",
        allowed_origins=tuple(args.allowed_origins),
        vllm_metrics=args.vllm_metrics,
        shown=shown,
    )


def _engine_options(args: argparse.Namespace, folder: Path) -> EngineOptions:
    return EngineOptions(
        model=str(folder),
        device=args.device,
        dtype=args.dtype,
        weights=args.weights,
        max_model_len=args.max_model_len,
        kv_cache_dtype=args.kv_cache_dtype,
        page_size=args.page_size,
        kv_gb=args.kv_gb,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        cuda_graph=args.cuda_graph,
        cuda_graph_max_bs=args.cuda_graph_max_bs,
        max_queued=args.max_queued_requests,
        prefix_caching=args.prefix_caching,
        threads=args.threads,
        scenario=args.tune_scenario,
        concurrency=args.tune_concurrency,
        by_tokens=args.by_tokens,
        random_weights=args.random_weights,
        emulate_rank=args.emulate_rank,
        layout=args.layout,
        links=args.links,
        routing=args.routing,
        emulate_layers=args.emulate_layers,
    )


def _count(text: str) -> int:
    return whole_number(text, 1, 2**31 - 1)


def _port(text: str) -> int:
    return whole_number(text, 0, 65535)


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a number from 0 on")
    return value


def _positive(text: str) -> float:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 0")
    return value
