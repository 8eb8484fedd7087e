"""Goal tracking: the generic physics reward (GCTR) over every body."""
