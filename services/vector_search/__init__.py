"""Item vectors and the item-item tables of each tenant's active model: the user's recent history is the query."""
