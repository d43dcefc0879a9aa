"""Operators: what has to be computed, said once; kernels (``fullbore.kernels``) are ways to compute it."""
