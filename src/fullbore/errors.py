"""Errors a stranger can act on.

Every message names the thing, the value it had, what was expected and what to do.
"""


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
