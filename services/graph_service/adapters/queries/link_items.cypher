// Items get their nodes; siblings is how many of that kind the item has.
UNWIND $rows AS row
MATCH (item:Item {key: row.item})
USING INDEX SEEK item:Item(key)
CALL (row, item) {
  MATCH (node:Node {key: row.node})
  USING INDEX SEEK node:Node(key)
  CREATE (item)-[:HAS {kind: row.kind, siblings: row.siblings}]->(node)
}
