// Locks people, genres and countries, making those that are new, before their items are read.
UNWIND $rows AS row
MERGE (node:Node {key: row.key})
ON CREATE SET node.kind = row.kind, node.name = row.name
SET node.locked = true
WITH node
RETURN collect([node.key, node.degree, node.members]) AS nodes
