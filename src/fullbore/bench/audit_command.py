"""``fullbore bench audit``: what a published figure implies, and how far it is from a server's floor."""

import argparse
import copy
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fullbore.bench.audit import Claim, OperatingPoint, needed, readings, solve
from fullbore.bench.audit_table import Audit, report
from fullbore.bench.floor import Server, floor
from fullbore.errors import UsageError, did_you_mean
from fullbore.flags import bandwidth, duration, whole_number
from fullbore.hardware.catalogue import catalogue, find_device
from fullbore.model.config import ModelConfig, parse_config
from fullbore.model.files import read_object
from fullbore.model.presets import PRESETS
from fullbore.results.files import check_writable, replace_file
from fullbore.results.table import console

SCHEMA = "fullbore.audit/1"
CACHE_VALUE_BYTES = {"bf16": 2, "fp8": 1}
MOST = 1_000_000_000
DEVICES = 8
# Shares of people at work in the busy hour and their requests an hour, where the user names none.
SHARES, REQUESTS_H = (0.02, 0.05, 0.1, 0.2), (4.0, 10.0, 20.0)


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--concurrency", type=_positive, metavar="N", help="requests in flight, as published")
    add("--input", type=_tokens, required=True, metavar="N", help="tokens of a prompt, on average")
    add("--output", type=_tokens, required=True, metavar="N", help="tokens of an answer, on average")
    add("--ttft", type=duration, metavar="TIME", help="mean time to the first token, such as 2.01s")
    add("--tpot", type=duration, metavar="TIME", help="mean time per further token, such as 93ms")
    add("--claimed", type=_positive, metavar="TOK/S", help="the published throughput, whatever it counts")
    known = ", ".join(device.name for device in catalogue())
    add("--server", default="", metavar="DEVICE", help=f"compare with the floor of this device: {known}")
    add(
        "--devices",
        type=lambda text: whole_number(text, 1, 100_000),
        default=DEVICES,
        metavar="N",
        help="devices of the server (default %(default)s)",
    )
    add("--bandwidth", type=bandwidth, metavar="RATE", help="of each device's memory, such as 5.3TB/s")
    add(
        "--config",
        default="deepseek-v3",
        metavar="NAME|FILE",
        help=f"the model, for the floor: {', '.join(PRESETS)}, or a config.json (default %(default)s)",
    )
    add(
        "--kv-cache-dtype",
        choices=tuple(CACHE_VALUE_BYTES),
        default="bf16",
        help="for the floor (default %(default)s)",
    )
    add("--active", type=_share, metavar="SHARE", help="of all people at work in the busy hour, such as 5%%")
    add("--requests-per-hour", type=_positive, metavar="N", help="of each person who is at work")
    add("--json", default="", metavar="FILE", help="write the audit there")


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_writable(args.json)
    point = solve(Claim(args.input, args.output, args.concurrency, args.ttft, args.tpot, args.claimed))
    server = _server(args)
    config = _config(args.config)
    value_bytes = CACHE_VALUE_BYTES[args.kv_cache_dtype]

    def floor_ms(at: OperatingPoint) -> float | None:
        return floor(config, at, server, value_bytes).tensor_parallel_ms if server else None

    solved = next((name for name in ("concurrency", "ttft", "tpot") if getattr(args, name) is None), "")
    # What was solved from the claim agrees with it, so there is nothing to judge.
    judged = None if solved else args.claimed
    audit = Audit(
        point=point,
        solved=solved,
        claimed_tok_s=args.claimed,
        readings=tuple(readings(point, judged, args.devices)) if judged else (),
        needed=tuple((each, floor_ms(each.point)) for each in needed(point, judged)) if judged else (),
        server=server,
        floor=floor(config, point, server, value_bytes) if server else None,
        shares=SHARES if args.active is None else (args.active,),
        requests_h=REQUESTS_H if args.requests_per_hour is None else (args.requests_per_hour,),
    )
    console().print(report(audit))
    if args.json:
        replace_file(args.json, json.dumps(as_json(audit), indent=1) + "\n")
    return 0


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit as a report of its own schema; units are in the names."""
    point = audit.point
    return {
        "schema": SCHEMA,
        "operating_point": asdict(point),
        "solved": audit.solved or None,
        "implied": {
            "latency_s": point.latency_s,
            "requests_h": point.requests_s * 3600,
            "output_tok_s": point.output_tok_s,
            "input_tok_s": point.input_tok_s,
            "total_tok_s": point.total_tok_s,
        },
        "people": [
            {"active": share, "requests_per_hour": rate, "people": point.people(share, rate)}
            for share in audit.shares
            for rate in audit.requests_h
        ],
        "claimed_tok_s": audit.claimed_tok_s,
        "readings": [{**asdict(each), "fits": each.fits} for each in audit.readings],
        "needed": [
            {"what": each.words, "operating_point": asdict(each.point), "floor_ms": floor_ms}
            for each, floor_ms in audit.needed
        ],
        "server": asdict(audit.server) if audit.server else None,
        "floor": asdict(audit.floor) if audit.floor else None,
    }


def _server(args: argparse.Namespace) -> Server | None:
    device = find_device(args.server) if args.server else None
    if device is None and args.bandwidth is None:
        return None
    if device is None:
        return Server("devices", args.devices, args.bandwidth)
    if args.bandwidth is None:
        return Server(device.name, args.devices, device.bandwidth_bytes_s.value, device)
    # Memory of another speed than the catalogue's is not what the catalogue's copy ran on.
    return Server(device.name, args.devices, args.bandwidth, replace(device, reached_bytes_s=None))


def _config(source: str) -> ModelConfig:
    if source in PRESETS:
        return parse_config(copy.deepcopy(dict(PRESETS[source])))
    path = Path(source) / "config.json" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise UsageError(
            f"--config {source}: neither a file nor a preset{did_you_mean(source, PRESETS)}; "
            f"the presets are {', '.join(PRESETS)}"
        )
    return parse_config(read_object(path), str(path))


def _tokens(text: str) -> int:
    return whole_number(text, 1, MOST)


def _positive(text: str) -> float:
    return _number(text, MOST, f"a number above 0 and up to {MOST}")


def _share(text: str) -> float:
    percent = text.endswith("%")
    expected = "a share above 0 and up to 1, such as 5% or 0.05"
    return _number(text.removesuffix("%"), 100 if percent else 1, expected) / (100 if percent else 1)


def _number(text: str, most: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected {expected}")
    return value
