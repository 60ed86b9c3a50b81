// Says that a rebuild lives, and whether the idle slot is written along; gives no row when its place was taken.
MATCH (graph:Graph {name: 'graph'})
SET graph.locked = true
WITH graph
WHERE graph.rebuild = $rebuild AND timestamp() - graph.rebuild_at_ms < $lease_ms
SET graph.rebuild_at_ms = timestamp(), graph.fills = $fills
RETURN graph.slot AS slot
