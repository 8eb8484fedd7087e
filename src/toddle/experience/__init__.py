"""Floor 4: the acting loop, and on it rollouts, episodes, demonstrations, evaluation."""
