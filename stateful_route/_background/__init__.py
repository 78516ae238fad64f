"""Background chores: tasks that an object owns, and what is done again and again."""
