"""Where the uid of a request is, or how it comes to be: the sources of uids."""
