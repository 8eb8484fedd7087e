"""Floor 2: rollouts and datasets."""
