"""Reads catalogues and interactions from files."""
