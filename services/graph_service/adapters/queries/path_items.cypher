// Items with their nodes.
MATCH (graph:Graph {name: 'graph'})
UNWIND $keys AS key
MATCH (item:Item {key: key + graph.slot})
RETURN graph.slot AS slot, collect([key, item.users, item.nodes]) AS items
