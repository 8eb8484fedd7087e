"""Floor 5: what every long job needs: the loop, the folder, checkpoints, metrics, steps that depend on one another."""
