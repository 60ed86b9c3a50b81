"""The graph of users, items, genres, people and countries: what is related to what, and along which paths."""
