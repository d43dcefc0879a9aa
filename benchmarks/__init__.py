"""Measurements a person starts by hand; never tests. ``docs/benchmarks.md`` says how and what they mean."""
