"""Floor 5: from an RL checkpoint to a VLA action expert: convert, grow, graft."""
