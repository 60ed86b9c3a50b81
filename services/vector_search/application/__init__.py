"""The use cases of vector_search."""
