"""Fullbore beside other engines on this machine: same checkpoint, same client, one table.

python -m benchmarks.peers --help
"""
