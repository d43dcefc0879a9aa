"""Load on a server, and what it did under it."""
