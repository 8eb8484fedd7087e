"""Floor 0: the nouns every other floor speaks of.  Imports nothing of toddle."""
