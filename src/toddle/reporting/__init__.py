"""Floor 6: what a run or a study came to, as pages, plots and tables."""
