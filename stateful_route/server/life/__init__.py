"""The life of a pod: registered, renewed with each heartbeat, ended; the lease that lets it own uids meanwhile."""
