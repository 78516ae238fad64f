"""Watches processes from outside, and ends the lives of those that have ended."""
