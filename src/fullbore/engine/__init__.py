"""Requests become steps, steps become tokens."""
