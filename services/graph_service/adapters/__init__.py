"""The stores that keep the graph."""
