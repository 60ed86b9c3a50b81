// Which graph serves, and which one is being built.
MATCH (graph:Graph {name: 'graph'})
RETURN graph.slot AS slot, graph.building AS building
