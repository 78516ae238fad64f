"""How uids leave the pod, with their state or without, and how those of other pods arrive."""
