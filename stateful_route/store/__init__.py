"""The store: its protocol (``store.protocol``), and its implementation on Redis."""
