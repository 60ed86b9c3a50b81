// Pairs that met for the first time.
UNWIND $rows AS row
MATCH (user:User {key: row.user})
USING INDEX SEEK user:User(key)
CALL (row, user) {
  MATCH (item:Item {key: row.item})
  USING INDEX SEEK item:Item(key)
  CREATE (user)-[:TOOK {
    item: row.item, user: row.user, at_ms: row.at_ms, weight: row.weight, taken_at_ms: row.taken_at_ms
  }]->(item)
}
