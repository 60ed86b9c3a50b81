// Items with their newest users and their nodes.
MATCH (graph:Graph {name: 'graph'})
UNWIND $keys AS key
MATCH (item:Item {key: key + graph.slot})
USING INDEX SEEK item:Item(key)
RETURN graph.slot AS slot, collect([key, item.users, item.newest_users, item.nodes]) AS items
