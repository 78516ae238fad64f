"""What a client remembers of links: the cache, and in it the hot part that a hit looks at."""
