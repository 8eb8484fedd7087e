"""Floor 4: one learning method a file, its config beside it."""
