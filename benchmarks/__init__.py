"""Benchmarks: each subject interleaved with its reference in one process. ``python -m benchmarks`` runs them."""
