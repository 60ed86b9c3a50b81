"""The use cases of the graph."""
