"""The version: its one home, read by the build."""

__version__ = "0.1.0"
