// The items with the most users; those of the other graph are passed over.
MATCH (graph:Graph {name: 'graph'})
CALL (graph) {
  MATCH (item:Item)
  USING INDEX item:Item(users)
  WHERE item.users > 0
  WITH graph, item ORDER BY item.users DESC
  WHERE (item.key < 0) = (graph.slot < 0)
  WITH item ORDER BY item.users DESC, item.key LIMIT $limit
  RETURN collect(item.key) AS keys
}
RETURN [key IN keys | key - graph.slot] AS keys
