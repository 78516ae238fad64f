"""A service in virtual time: pods, clients and links, and who chooses. No clock, no I/O, no event loop."""
