"""The source of truth for items, users, interactions, interaction types and popularity."""
