"""For every test, and before torch is imported."""

import os

# Small operators on spinning threads take a hundred times longer wherever another process has a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
