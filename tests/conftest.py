"""For every test, and before torch is imported."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Small operators on spinning threads take a hundred times longer wherever another process has a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Kernels for GPUs are tested without one. Read when they are imported, so it must be said before any is.
os.environ.setdefault("TRITON_INTERPRET", "1")

# What was measured on this machine, and in whatever state, decides no test.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="fullbore-tests-")

# A shell starts what runs in its background with Ctrl-C ignored, and programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("no test fails on time", deadline=None)
settings.load_profile("no test fails on time")


@pytest.fixture
def run_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where engines put their sockets: an empty folder whose path is short enough for one (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
