// Lets the rebuilt graph serve; gives no row when another rebuild has taken its place.
MATCH (graph:Graph {name: 'graph'})
SET graph.locked = true
WITH graph
WHERE graph.rebuild = $rebuild AND timestamp() - graph.rebuild_at_ms < $lease_ms
SET graph.slot = $slot
REMOVE graph.rebuild, graph.rebuild_at_ms, graph.fills
RETURN graph.slot AS slot
