// The items with the most users; those of the other graph are passed over.
MATCH (graph:Graph {name: 'graph'})
MATCH (item:Item)
WHERE item.users > 0 AND (item.key < 0) = (graph.slot < 0)
WITH item.key - graph.slot AS key, item.users AS users
ORDER BY users DESC, key LIMIT $limit
RETURN collect(key) AS keys
