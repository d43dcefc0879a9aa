"""``fullbore bench mock``: the mock server as a program."""

import argparse
from dataclasses import fields

from fullbore.bench.mock.question import Limits
from fullbore.bench.mock.server import Options, serve
from fullbore.bench.mock.timing import Timing
from fullbore.flags import duration, whole_number

MANY = 2**31 - 1


def configure(parser: argparse.ArgumentParser) -> None:
    truth, limits = Timing(), Limits()
    http = parser.add_argument_group("HTTP").add_argument
    http("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    http("--port", type=_port, default=8000, help="0 chooses a free one (default: 8000)")
    http("--model", default=limits.model, metavar="NAME", help="what it says it serves (default: mock)")
    http("--vocab", type=_count, default=limits.vocab_size, metavar="N",
         help="token ids go up to N - 1 (default: 100000)")  # fmt: skip
    http("--max-model-len", type=_count, default=limits.max_model_len, metavar="TOKENS",
         help="prompt and answer together (default: 131072)")  # fmt: skip
    http("--answer-tokens", type=_count, default=0, metavar="N",
         help="end answers there, except with ignore_eos (default: at max_tokens)")  # fmt: skip
    http("--remember", type=_count, default=0, metavar="N",
         help="show when each chunk of the last N requests was written, at GET /records")  # fmt: skip

    pace = parser.add_argument_group("timing").add_argument
    pace("--ttft", dest="ttft_s", type=_wait, default=truth.ttft_s, metavar="TIME",
         help="to the first token (default: 200ms)")  # fmt: skip
    pace("--ttft-per-token", dest="ttft_per_token_s", type=_wait, default=0.0, metavar="TIME",
         help="more, for each token of the prompt (default: 0)")  # fmt: skip
    pace("--tpot", dest="tpot_s", type=_wait, default=truth.tpot_s, metavar="TIME",
         help="for each further token (default: 20ms)")  # fmt: skip
    pace("--jitter", type=_share, default=0.0, metavar="U",
         help="gaps between chunks vary by up to this share, their mean stays (default: 0)")  # fmt: skip
    pace("--tokens-per-chunk", type=_count, default=1, metavar="N",
         help="in every chunk but the first, which has one (default: 1)")  # fmt: skip
    pace("--max-running", type=_count, default=0, metavar="N",
         help="requests served at a time; more wait in order (default: no limit)")  # fmt: skip
    pace("--slowdown", type=_factor, default=0.0, metavar="X",
         help="TPOT is longer by this share for each request beside (default: 0)")  # fmt: skip

    fail = parser.add_argument_group("failures, as shares of all requests").add_argument
    fail("--refuse-rate", type=_share, default=0.0, metavar="P", help="503, with Retry-After")
    fail("--error-rate", type=_share, default=0.0, metavar="P", help="an error event in mid-answer")
    fail("--stop-rate", type=_share, default=0.0, metavar="P", help="ends in mid-answer without a reason")
    fail(
        "--stall-rate", type=_share, default=0.0, metavar="P", help="stops in mid-answer, but stays connected"
    )
    fail("--seed", type=int, default=0, help="draws failures and jitter (default: 0)")


def run(args: argparse.Namespace) -> int:
    options = Options(
        timing=Timing(**{field.name: getattr(args, field.name) for field in fields(Timing)}),
        limits=Limits(args.model, args.vocab, args.max_model_len, args.answer_tokens),
        host=args.host,
        port=args.port,
        remember=args.remember,
    )
    served = serve(options, lambda url: print(f"mock server ready at {url}", flush=True))
    late = served.lateness.summary()
    print(
        f"{late['chunks']} chunks written; late by {late['p50']:.2f} ms (median), {late['p99']:.2f} (p99), "
        f"{late['most']:.2f} (most)"
    )
    return 0


def _wait(text: str) -> float:
    return 0.0 if text == "0" else duration(text)


def _count(text: str) -> int:
    return whole_number(text, 1, MANY)


def _port(text: str) -> int:
    return whole_number(text, 0, 65535)


def _share(text: str) -> float:
    return _number(text, 1.0)


def _factor(text: str) -> float:
    return _number(text, 1e6)


def _number(text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a number from 0 to {most:g}")
    return value
