"""The store: its port (``store.port``), and its implementation on Redis."""
