"""Fullbore: full-size DeepSeek-V3/R1 models at full throughput from one server."""

__version__ = "0.1.0"
