"""Floor 3: policies.  Every one draws a Decision through a chain of links and can score it again."""
