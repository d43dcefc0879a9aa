"""For what kernels are chosen: a scenario's steps, and this machine's table of times. Imports no torch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fullbore.hardware.fingerprint import machine_fingerprint
from fullbore.hardware.limits import usable_cores
from fullbore.ops.sources import source_code
from fullbore.ops.store import Store, default_folder
from fullbore.scenario.mix import Mix, step_mix
from fullbore.scenario.scenario import load_scenario

MOST_SEQUENCES = 64  # of one step, unless the server is told otherwise


@dataclass(frozen=True)
class Setting:
    """``concurrency`` requests of ``scenario`` are in flight, which make the steps ``mix``."""

    scenario: str
    concurrency: int
    threads: int
    mix: Mix
    store: Store

    def covers(self, folder: Path, dtype: str, weights: str) -> bool:
        """Whether all kernels of the model in ``folder``, with its weights converted like this, were measured
        here with the present code."""
        return self.store.load().covers(model_digest(folder, weights), source_code(), dtype)

    @staticmethod
    def of(scenario: str, concurrency: int = 0, threads: int = 0, most_tokens: int = 512) -> "Setting":
        """0 chooses: the scenario's own concurrency as far as one step holds it, and every core.

        UsageError for a scenario that is not known.
        """
        loaded = load_scenario(scenario)
        in_flight = concurrency or min(loaded.arrival.concurrency, MOST_SEQUENCES)
        threads = threads or usable_cores()
        store = Store(machine_fingerprint(threads), default_folder())
        return Setting(loaded.name, in_flight, threads, step_mix(loaded, in_flight, most_tokens), store)


def model_digest(folder: Path, weights: str) -> str:
    """Of a model's shapes and formats, which its config.json and ``--weights`` decide."""
    decisive = (folder / "config.json").read_bytes() + weights.encode()
    return hashlib.blake2b(decisive, digest_size=8).hexdigest()
