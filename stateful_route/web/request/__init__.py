"""A request as it arrives: its body, its framing, and what is answered if nobody serves it."""
