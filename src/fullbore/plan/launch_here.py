"""The command that serves a model on this machine as a plan says."""

import math
import shlex

from fullbore.model.weights import STORED
from fullbore.plan.launch import Launch
from fullbore.plan.trial_here import TrialHere

_SOURCE = "fullbore serve --help of this version"


def launch_here(trial: TrialHere, model: str, running: int, most_tokens: int) -> Launch:
    """For at most ``running`` requests at once, of up to ``most_tokens`` each. model: as the user says it."""
    options, policy = trial.way.options, trial.profile.policy
    running = max(1, min(running, policy.most_running))
    # The pages of each, and one that the scheduler leaves free for it.
    pages = min(
        running * (-(-most_tokens // options.page_size) + 1), trial.held.cache_tokens // options.page_size
    )
    gib = pages * options.page_size * trial.way.found.token_bytes / 2**30
    words = ["fullbore", "serve", model]
    words += ["--weights", options.weights] if options.weights != STORED else []
    words += ["--kv-cache-dtype", options.kv_cache_dtype] if options.kv_cache_dtype != "auto" else []
    words += ["--max-num-seqs", str(running), "--max-num-batched-tokens", str(policy.chunk_tokens)]
    words += ["--kv-gb", f"{math.ceil(gib * 1000) / 1000:g}"]
    words += ["--threads", str(options.threads)] if options.threads else []
    return Launch("fullbore", shlex.join(words), (_SOURCE,), ())
