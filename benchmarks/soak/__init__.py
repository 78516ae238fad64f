"""A soak: pods and gateways as processes under load, with random faults, and invariants that are checked throughout."""
