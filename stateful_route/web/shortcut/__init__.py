"""A shortcut from uvicorn's connection to a peer: without a task and without ASGI."""
