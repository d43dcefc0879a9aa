"""What the HTTP process spends on requests and tokens: asked of the server's own code, in a process of its
own, since rooms on one floor do not know each other."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fullbore.errors import FullboreError
from fullbore.steptime.measured import Host

PROGRAM = (sys.executable, "-P", "-m", "fullbore.server.http_share")
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Http:
    """Microseconds of one core, for each request and for each token that it gets."""

    request_us: float = 0.0
    token_us: float = 0.0

    def beside(self, host: Host, threads: int, cores: int) -> Host:
        """``host`` with what operators lack of ``cores`` while this process works.

        Nothing where their ``threads`` leave a core free. Else all of them lose alike, since the tasks of an
        operator go to whichever thread is free.
        """
        return replace(host, token_us=self.token_us / threads if threads >= cores else 0.0)


def http(model: str, program: Sequence[str] = PROGRAM) -> Http:
    """Measured now with the tokenizer of ``model``, in about two seconds. FullboreError where that fails."""
    try:
        done = subprocess.run(
            (*program, model), capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise FullboreError(f"the HTTP process was not measured within {_PATIENCE_S:.0f} s") from None
    try:
        return Http(**json.loads(done.stdout))
    except (ValueError, TypeError):
        raise FullboreError(f"the HTTP process could not be measured: {done.stderr.strip()[-500:]}") from None
