"""One run of ``fullbore tune``: what is measured for a model, with a bar, and what came of it."""

import os
import sys
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fullbore.hardware.accelerator import accelerators
from fullbore.hardware.cpu import last_level_cache_bytes
from fullbore.hardware.device import CPU, Device
from fullbore.hardware.limits import free_memory_bytes
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.convert import Converted
from fullbore.model.load import compute_type
from fullbore.model.locate import locate
from fullbore.model.weights import recipe
from fullbore.model.workload import workload
from fullbore.ops.demand import Workload
from fullbore.ops.registry import Registry
from fullbore.ops.selection import Selection
from fullbore.ops.setting import Setting, kv_bits, model_digest
from fullbore.ops.sources import source_code
from fullbore.ops.times import Covered, Times
from fullbore.ops.tuned import Tuned, shortfalls
from fullbore.screen import console
from fullbore.tune.device_probes import device_probes
from fullbore.tune.graphs import CudaStream, GraphTimer
from fullbore.tune.points import QUICK, THOROUGH
from fullbore.tune.probes import probes
from fullbore.tune.table import choices_table
from fullbore.tune.tuner import Bench, Tuner

WEIGHTS_SHARE = 8  # of the free memory, what drawn weights may take: they are drawn, packed and copied


@dataclass
class Session:
    """``model``: its digest, by which a server knows that nothing is left to measure for it. ``weights``: the
    format that most of them are in."""

    model: str
    dtype: str
    weights: str
    work: Workload
    setting: Setting
    times: Times
    registry: Registry
    device: Device = CPU

    @staticmethod
    def of(
        model: str,
        dtype: str,
        setting: Setting,
        weights: str,
        kv_cache_dtype: str = "auto",
        device: Device = CPU,
    ) -> "Session":
        """A model by the name that ``serve`` takes too."""
        torch.set_num_threads(setting.threads)
        folder, chosen = locate(model), compute_type(dtype, device)
        bits = kv_bits(kv_cache_dtype, chosen)
        checkpoint = Checkpoint.open(folder, load_config(folder))
        source = Converted(checkpoint, checkpoint.specs, recipe(weights))
        work, digest = (
            workload(checkpoint.config, source, chosen, bits, device),
            model_digest(folder, weights, bits),
        )
        times = setting.store.load()
        return Session(digest, chosen, source.format, work, setting, times, CATALOGUE, device)

    def measure(self, thorough: bool, only_choices: bool, again: bool) -> None:
        """What is not in the table yet; or, ``again``, all."""
        if busy := _busy(self.setting.threads):
            print(busy, file=sys.stderr)
        store = self.setting.store
        bench = self._bench()
        screen = Console(stderr=True)
        bar = Progress(
            TextColumn("measuring kernels: {task.description}"), BarColumn(),
            TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
            console=screen, transient=True, refresh_per_second=4, disable=not screen.is_terminal,
        )  # fmt: skip
        with bar:
            task = bar.add_task("")
            tuner = Tuner(
                self.registry, self.work, self.setting.mix, THOROUGH if thorough else QUICK, bench,
                self.times, store.append, only_choices, time.time() if again else 0.0,
                lambda done, total, next: bar.update(task, completed=done, total=total, description=next),
            )  # fmt: skip
            self.times = tuner.run()
        covered = Covered(self.model, source_code(), self.dtype, time.time())
        if not self.times.covers(covered.model, covered.code, covered.dtype):
            store.append([covered])

    def _bench(self) -> Bench:
        """Of the device. Triton's interpreter runs on the CPU, whose clock tells nothing of a GPU."""
        free = min(free_memory_bytes(), self.device.free_bytes()) // WEIGHTS_SHARE
        if self.device.place == "cpu":
            return Bench(probes(), last_level_cache_bytes(), free)
        stream = CudaStream()
        return Bench(
            device_probes(stream), accelerators()[0].cache_bytes, free, GraphTimer(stream),
            place=self.device.place, stream=stream,
        )  # fmt: skip

    def selection(self, by_tokens: bool) -> tuple[Selection, Tuned]:
        tuned = Tuned(self.times, self.setting.mix, by_tokens)
        return tuned(self.work, self.registry, self.dtype), tuned

    def report(self, by_tokens: bool) -> None:
        """What was chosen, refused, and cannot be used, on stdout."""
        selection, tuned = self.selection(by_tokens)
        evidence = tuned.evidence(self.work, self.registry)
        out = console(least=110, plain=190)
        ceiling = evidence.estimator.ceiling
        setting = self.setting
        out.print(
            f"{_machine(setting)}: "
            f"{ceiling.describe()} (measured)",
            f"chosen for {setting.scenario} with {setting.concurrency} in flight, weights as {self.weights}, "
            f"computing in {self.dtype}; "
            "times are medians, % is of the ceiling that binds (~ interpolated, ? assumed)",
            "",
            sep="\n",
        )  # fmt: skip
        out.print(choices_table(selection, self.work, evidence))
        total = sum(
            (choice.time_us or 0.0) * sum(n for group, n in self.work.groups.items() if job in group)
            for job, choice in selection.choices.items()
        )
        out.print(f"\nall operators in a step, on average: {total / 1000:.3g} ms")
        for line in (
            *shortfalls(selection),
            *map(_stranger, setting.store.strangers()),
        ):
            out.print(f"- {line}", markup=False)


def _machine(setting: Setting) -> str:
    told = setting.store.fingerprint
    return told.get("gpu") or f"{told['cpu']}, {setting.threads} threads"


def _busy(threads: int) -> str:
    """A warning where other programs have the cores; "" on an idle machine."""
    load = os.getloadavg()[0]
    if load < max(1.0, 0.5 * threads):
        return ""
    return (
        f"this machine is busy (load {load:.1f} on {threads} cores): times scatter, and choices may be wrong "
        "(when it is idle: fullbore tune MODEL --again)"
    )


def _stranger(told: str) -> str:
    return f"not used, since measured elsewhere: {told}"
