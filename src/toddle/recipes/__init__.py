"""Floor 7: thin; where the parts meet.  One file a command."""
