"""Floor 5: thin; where the parts meet.  One file a command."""
