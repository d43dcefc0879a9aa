"""Ways to compute the operators of ``fullbore.ops``."""
