// The newest items of users whose packed list is too short.
UNWIND $keys AS key
CALL (key) {
  MATCH (:User)-[took:TOOK]->(:Item)
  WHERE took.user = key AND took.taken_at_ms > 0
  WITH took ORDER BY took.taken_at_ms DESC, took.item DESC LIMIT $limit
  RETURN collect(took.item - $slot) AS items
}
RETURN key - $slot AS key, items
