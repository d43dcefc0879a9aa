"""For every test, and before torch is imported."""

import os

from hypothesis import settings

# Small operators on spinning threads take a hundred times longer wherever another process has a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile("no test fails on time", deadline=None)
settings.load_profile("no test fails on time")
