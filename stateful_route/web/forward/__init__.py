"""Where the uid of a request is, and how the request gets there."""
