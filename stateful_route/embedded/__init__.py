"""A Valkey or Redis server that this process starts, and that ends with it."""
