"""Floor 1: pure tensor functions.  No modules, no config, no device, no global randomness."""
