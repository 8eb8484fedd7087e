"""Floor 4: collecting, the loop, checkpoints, metrics, evaluation, reports."""
