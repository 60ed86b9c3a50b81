"""Measures the quality of the served lists by published protocols."""
