// Which graph serves, and whether the other one is being filled: then it is written along, for as long as the rebuild
// lives.
MATCH (graph:Graph {name: 'graph'})
RETURN graph.slot AS slot, graph.fills AND timestamp() - graph.rebuild_at_ms < $lease_ms AS is_filled
