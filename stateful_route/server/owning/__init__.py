"""Which uids the pod owns: claims, releases, and what is done when a link, a life or the store is lost."""
