"""``fullbore inspect machine``: what this machine is and how fast it reads and multiplies, measured."""

import argparse
import datetime
import json
import os
from dataclasses import asdict
from pathlib import Path

from fullbore import screen
from fullbore.hardware.machine import Machine, accelerators, as_toml, describe


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--write",
        type=Path,
        metavar="FILE",
        help="a catalogue entry, for: fullbore plan point --catalogue FILE",
    )
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    # Waiting threads must sleep, as in the engine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from fullbore.hardware.limits import usable_cores
    from fullbore.kernels.probes import probes

    torch.set_num_threads(usable_cores())
    ceiling = probes().measure()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = describe(ceiling.read, ceiling.flops, accelerators(), today)
    if args.json:
        print(json.dumps(asdict(machine), indent=1))
    else:
        screen.console(80, 110).print(page(machine), markup=False, highlight=False)
    if args.write:
        args.write.write_text(as_toml(machine), encoding="utf-8")
        if not args.json:
            use = f"--catalogue {args.write} --server {machine.name.lower()}"
            print(f"\nwritten to {args.write}; use it with: {use}")
    return 0


def page(machine: Machine) -> str:
    """For people."""
    flops = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {kind}" for kind, rate in machine.flop_s.items())
    rows = {
        "processor": machine.cpu,
        "cores": f"{machine.cores} usable on {machine.nodes} NUMA node(s), {machine.threads} threads compute",
        "instructions": " ".join(machine.isa) or "none of those that kernels know",
        "last cache": f"{machine.cache_bytes / 2**20:.0f} MiB",
        "memory": f"{machine.memory_bytes / 1e9:.1f} GB, {machine.free_bytes / 1e9:.1f} GB free now",
        "reads": f"{machine.read_bytes_s / 1e9:.1f} GB/s, measured",
        "multiplies": f"{flops}, measured",
        "accelerators": "none that torch sees" if not machine.accelerators else "",
    }
    for number, each in enumerate(machine.accelerators):
        limits = f"; {each.limits}" if each.limits else ""
        rows[f"device {number}"] = (
            f"{each.name}, {each.memory_bytes / 1e9:.0f} GB, {each.units} units, {each.architecture}, "
            f"not measured{limits}"
        )
    return "\n".join(f"{name:<13} {text}" for name, text in rows.items() if text)
