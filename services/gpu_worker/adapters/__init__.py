"""What lies outside, one thing a file."""
