"""``fullbore inspect machine``: what this machine is and how fast it reads and multiplies, measured."""

import argparse
import datetime
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from fullbore import screen
from fullbore.hardware.accelerator import Accelerator, accelerators
from fullbore.hardware.device import DEVICES, find_device
from fullbore.hardware.interconnect import ALONE, interconnect
from fullbore.hardware.machine import Machine, as_toml, describe


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--write",
        type=Path,
        metavar="FILE",
        help="a catalogue entry, for: fullbore plan point --catalogue FILE",
    )
    add("--device", choices=DEVICES, default="auto",
        help="measured beside the CPU; cuda is AMD's too (default: a GPU where there is one)")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    # Waiting threads must sleep, as in the engine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from fullbore.hardware.limits import usable_cores
    from fullbore.tune.probes import probes

    device = find_device(args.device)
    torch.set_num_threads(usable_cores())
    ceiling = probes().measure()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = accelerators()
    if device.place != "cpu":
        found = (_measured(found[0]), *found[1:])
    machine = describe(ceiling.read, ceiling.flops, found, today, interconnect() if found else ALONE)
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


def _measured(gpu: Accelerator) -> Accelerator:
    """With what torch's current GPU reads and multiplies."""
    from fullbore.tune.device_probes import device_probes
    from fullbore.tune.graphs import CudaStream

    ceiling = device_probes(CudaStream()).measure()
    return replace(gpu, read_bytes_s=ceiling.read, flop_s=dict(ceiling.flops))


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
        rows[f"device {number}"] = (
            f"{each.name}, {each.memory_bytes / 1e9:.0f} GB, {each.units} units, {each.architecture}, "
            f"{each.cache_bytes / 2**20:.0f} MiB last cache{f', {each.driver}' if each.driver else ''}"
        )
        if each.limiter:
            rows[f"limiter {number}"] = f"peak tops limiter {each.limiter}"
        if each.read_bytes_s:
            peaks = (f"{rate / 1e12:,.0f} TFLOP/s in {kind}" for kind, rate in each.flop_s.items())
            told = ", ".join((f"reads {each.read_bytes_s / 1e12:.2f} TB/s", *peaks))
            rows[f"measured {number}"] = told
    if machine.links.text:
        rows["links"] = machine.links.text
    return "\n".join(f"{name:<13} {text}" for name, text in rows.items() if text)
