// How many items of a slot are described and not deleted, and how many relations items have.
MATCH (item:Item)
USING INDEX SEEK item:Item(key)
WHERE item.key >= $first AND item.key <= $last
RETURN count(item.item_type) AS items, coalesce(sum(item.users), 0) AS relations
