"""How loaded a pod is."""
