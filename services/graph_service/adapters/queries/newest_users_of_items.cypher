// The newest users of items whose packed list is too short.
UNWIND $keys AS key
CALL (key) {
  MATCH (:User)-[took:TOOK]->(:Item)
  WHERE took.item = key AND took.taken_at_ms > 0
  WITH took ORDER BY took.taken_at_ms DESC, took.user DESC LIMIT $limit
  RETURN collect(took.user - $slot) AS users
}
RETURN key - $slot AS key, users
