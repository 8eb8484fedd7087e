"""Floor 6: one file a method that a user can name: its settings, its presets, and how it is built."""
