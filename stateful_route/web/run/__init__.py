"""Runs an app that knows nothing of us as a child, and is its web server, its heartbeat and its supervisor."""
