"""Floor 2: data sets: reading, writing, statistics, windows."""
