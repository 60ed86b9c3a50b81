// Items get their nodes; siblings is how many of that kind the item has.
UNWIND $rows AS row
MATCH (item:Item {key: row.item})
CALL (row, item) {
  MATCH (node:Node {key: row.node})
  CREATE (item)-[:HAS {kind: row.kind, siblings: row.siblings}]->(node)
}
