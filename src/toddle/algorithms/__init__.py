"""Floor 5: one learning method a file, its config beside it."""
