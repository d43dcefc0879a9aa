"""Errors a stranger can act on.

Every message names the thing, the value it had, what was expected and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FullboreError(Exception):
    """Base of every error that is the user's to mend; the command prints it without a traceback."""

    exit_code = 1


class UsageError(FullboreError):
    """A flag, an environment variable or an argument that cannot be used."""

    exit_code = 2


class ConfigError(FullboreError):
    """A field of config.json (or its absence) that this model cannot be built from."""


class CheckpointError(FullboreError):
    """A file or tensor of a checkpoint that is missing, extra, misshapen, truncated or of a wrong type."""


class CapacityError(FullboreError):
    """Something does not fit: memory, pages, context, ports."""


class IntegrityError(FullboreError):
    """An invariant of ours does not hold: a bug, not the user's to mend."""

    exit_code = 70


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: `` (did you mean X?)`` for the closest of ``known``, "" when none is close."""
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
