"""Automatic pipelining over connections of our own: one for each server, shared by all callers."""
