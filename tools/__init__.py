"""Programs that look after the project; no part of the package. The Makefile calls them."""
