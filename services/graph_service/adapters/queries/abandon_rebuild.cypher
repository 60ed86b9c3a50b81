// Gives a rebuild up, unless it is over.
MATCH (graph:Graph {name: 'graph'})
SET graph.locked = true
WITH graph
WHERE graph.rebuild = $rebuild
REMOVE graph.rebuild, graph.rebuild_at_ms, graph.fills
RETURN graph.slot AS slot
