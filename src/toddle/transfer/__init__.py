"""Floor 4: from an RL checkpoint to a VLA action expert: convert, grow, graft."""
