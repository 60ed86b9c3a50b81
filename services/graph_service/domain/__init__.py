"""What a graph of items is, which items are related in it, and what its store must promise."""
