"""Where occurrences go: one module for each sink."""
