"""Floor 2: optimisers and rates, and how their state is saved."""
