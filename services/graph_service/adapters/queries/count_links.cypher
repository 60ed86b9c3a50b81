// How many items the nodes of a slot have.
MATCH (node:Node)
USING INDEX SEEK node:Node(key)
WHERE node.key >= $first AND node.key <= $last
RETURN coalesce(sum(node.degree), 0) AS links
