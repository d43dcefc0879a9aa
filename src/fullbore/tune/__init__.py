"""Kernels examined, timed, and chosen for a scenario."""
