"""Two releases that run side by side: pods and clients of each, on one Redis. ``python -m tools.side_by_side REV``."""
