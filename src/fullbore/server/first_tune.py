"""Kernels are measured before a model is served here for the first time.

The tuner is a process of its own, like the engine: torch and its threads stay out of this one, it draws its
own bar, and whatever becomes of it, the server starts.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullbore.engine.options import EngineOptions
from fullbore.flags import PREFIX, VARIABLES
from fullbore.hardware.cpu import best_dtype
from fullbore.hardware.gpus import probable_kind
from fullbore.ops.setting import Setting, kv_bits

PROGRAM = (sys.executable, "-P", "-m", "fullbore", "tune")
MODES = ("auto", "off", "quick", "thorough")
_END_S = 5.0  # for the tuner to keep its last record
log = logging.getLogger("fullbore.server")


@dataclass(frozen=True)
class FirstTune:
    """``mode``: auto (quick, where this model's kernels were never measured here), off, quick or thorough
    (which measure what is missing)."""

    mode: str
    options: EngineOptions

    def needed(self) -> bool:
        """Looks at the table of times alone; imports nothing heavy."""
        if self.mode != "auto":
            return self.mode != "off"
        options = self.options
        if options.emulate_rank or options.random_weights:
            return False
        kind = probable_kind(options.device)
        best = best_dtype() if kind == "cpu" else "bfloat16"
        dtype = best if options.dtype == "auto" else options.dtype
        setting = Setting.of(options.scenario, options.concurrency, options.threads, device=kind)
        return not setting.covers(
            Path(options.model), dtype, options.weights, kv_bits(options.kv_cache_dtype, dtype)
        )

    async def run(self, program: Sequence[str] = PROGRAM) -> None:
        """Measure, where that is needed. Cancelled, it ends the tuner, which goes on from there next time."""
        if not self.needed():
            return
        log.info("measuring this machine's kernels for the model, once (--tune off goes without)")
        # All is said by arguments: variables such as FULLBORE_CONCURRENCY may be meant for another verb.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(PREFIX) or name in VARIABLES
        }
        process = await asyncio.create_subprocess_exec(*program, *self.arguments(), env=environment)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        if code:
            log.warning(
                "the tuner ended with exit code %d; kernels are chosen by what was measured so far "
                "(to see what is wrong: fullbore tune MODEL)",
                code,
            )

    def arguments(self) -> list[str]:
        """Of the tuner, by the flags that both commands share."""
        options = self.options
        words = [options.model, "--quiet", "--scenario", options.scenario, "--dtype", options.dtype]
        words += ["--weights", options.weights, "--device", options.device]
        words += ["--kv-cache-dtype", options.kv_cache_dtype]
        words += ["--thorough"] if self.mode == "thorough" else ["--only-choices"]
        for flag, value in (("--concurrency", options.concurrency), ("--threads", options.threads)):
            words += [flag, str(value)] if value else []
        return words


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            process.kill()
            await process.wait()
