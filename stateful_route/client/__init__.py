"""The client driver: what runs in whatever calls the pods."""
