"""The server driver: what runs in a pod."""
