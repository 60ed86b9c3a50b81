// Items with their newest users and their nodes, in the graph that serves or in that of a slot; unknown ones are missing.
MATCH (graph:Graph {name: 'graph'})
UNWIND $keys AS key
MATCH (item:Item {key: key + coalesce($slot, graph.slot)})
USING INDEX SEEK item:Item(key)
RETURN coalesce($slot, graph.slot) AS slot, collect([key, item.users, item.newest_users, item.nodes]) AS items
