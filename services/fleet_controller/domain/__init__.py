"""What is decided, by rules alone."""
