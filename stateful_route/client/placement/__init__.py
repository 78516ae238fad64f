"""Which pod gets a new uid."""
