"""What the owner of a uid does with a request: the runs of the app, and what the app sees."""
