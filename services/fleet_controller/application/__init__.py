"""Reads, decides, acts or only tells."""
