"""Apps that keep state in memory, at several replicas: without stateful_route they lose it, with it they do not."""
