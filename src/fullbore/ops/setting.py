"""For what kernels are chosen: a scenario's steps, and this machine's table of times. Imports no torch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fullbore.errors import UsageError
from fullbore.hardware.fingerprint import machine_fingerprint
from fullbore.hardware.limits import usable_cores
from fullbore.ops.sources import source_code
from fullbore.ops.store import Store, default_folder
from fullbore.scenario.mix import Mix, step_mix
from fullbore.scenario.scenario import load_scenario

# What ``--kv-cache-dtype`` takes: bits of a latent, 0 for the compute type.
KV_CACHE_DTYPES = {"auto": 0, "bf16": 16, "fp8": 8, "bfloat16": 16, "fp8_e4m3": 8}
MOST_SEQUENCES = 64  # of one step, unless the server is told otherwise


@dataclass(frozen=True)
class Setting:
    """``concurrency`` requests of ``scenario`` are in flight, which make the steps ``mix``."""

    scenario: str
    concurrency: int
    threads: int
    mix: Mix
    store: Store

    def covers(self, folder: Path, dtype: str, weights: str, kv_bits: int = 0) -> bool:
        """Whether all kernels of the model in ``folder``, with its weights converted like this and such a
        cache, were measured here with the present code."""
        return self.store.load().covers(model_digest(folder, weights, kv_bits), source_code(), dtype)

    @staticmethod
    def of(
        scenario: str, concurrency: int = 0, threads: int = 0, most_tokens: int = 512, device: str = "cpu"
    ) -> "Setting":
        """0 chooses: the scenario's own concurrency as far as one step holds it (as many as that in an open
        loop, which has none of its own), and every core. ``device``: cpu or cuda, whose times are meant.

        UsageError for a scenario that is not known.
        """
        loaded = load_scenario(scenario)
        in_flight = concurrency or min(loaded.concurrency or MOST_SEQUENCES, MOST_SEQUENCES)
        threads = threads or usable_cores()
        store = Store(machine_fingerprint(threads, device), default_folder())
        return Setting(loaded.name, in_flight, threads, step_mix(loaded, in_flight, most_tokens), store)


def model_digest(folder: Path, weights: str, kv_bits: int = 0) -> str:
    """Of a model's shapes and formats, which its config.json and ``--weights`` decide, and its cache's."""
    decisive = (folder / "config.json").read_bytes() + weights.encode()
    decisive += f"kv_bits {kv_bits}".encode() if kv_bits else b""
    return hashlib.blake2b(decisive, digest_size=8).hexdigest()


def kv_bits(kv_cache_dtype: str, dtype: str) -> int:
    """Bits of a latent for what ``--kv-cache-dtype`` says; 0 where they are kept as they are computed."""
    if kv_cache_dtype not in KV_CACHE_DTYPES:
        raise UsageError(
            f"--kv-cache-dtype {kv_cache_dtype} is not known; use one of {', '.join(KV_CACHE_DTYPES)}"
        )
    bits = KV_CACHE_DTYPES[kv_cache_dtype]
    return 0 if (bits, dtype) == (16, "bfloat16") else bits
