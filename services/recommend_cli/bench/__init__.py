"""Measures the speed and the cost of the served lists."""
