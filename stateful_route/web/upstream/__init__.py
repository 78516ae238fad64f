"""A server of HTTP/1.1 behind this process: an app that knows nothing of us, in any language."""
