// Removes some items of a slot, whose relations are gone already.
MATCH (item:Item)
USING INDEX SEEK item:Item(key)
WHERE item.key >= $first AND item.key <= $last
WITH item LIMIT $limit
DETACH DELETE item
RETURN count(*) AS removed
