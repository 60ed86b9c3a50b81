// Removes some nodes of a slot, whose items are gone already.
MATCH (node:Node)
USING INDEX SEEK node:Node(key)
WHERE node.key >= $first AND node.key <= $last
WITH node LIMIT $limit
DETACH DELETE node
RETURN count(*) AS removed
