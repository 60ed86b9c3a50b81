// What filters ask of the items that are described and not deleted.
MATCH (graph:Graph {name: 'graph'})
UNWIND $keys AS key
MATCH (item:Item {key: key + graph.slot})
USING INDEX SEEK item:Item(key)
WHERE item.item_type IS NOT NULL
RETURN collect([key, item.item_type, item.created_at_ms, item.attributes]) AS items
