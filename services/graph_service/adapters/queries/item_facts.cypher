// Who may see the items that were ever described, and when.
MATCH (graph:Graph {name: 'graph'})
UNWIND $keys AS key
MATCH (item:Item {key: key + graph.slot})
USING INDEX SEEK item:Item(key)
WHERE item.occurred_at_ms IS NOT NULL
RETURN collect([key, item.tenant, item.visible_from_ms, item.visible_until_ms]) AS items
