// Begins a rebuild, whoever had begun one before; nothing is written along until the idle slot is empty.
MATCH (graph:Graph {name: 'graph'})
SET graph.rebuild = $rebuild, graph.rebuild_at_ms = timestamp(), graph.fills = false
RETURN graph.slot AS slot
