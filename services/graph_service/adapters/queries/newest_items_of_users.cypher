// The newest items of users whose packed list is too short.
UNWIND $keys AS key
CALL (key) {
  MATCH ()-[took:TOOK]->()
  USING INDEX SEEK took:TOOK(user, taken_at_ms, item)
  WHERE took.user = key AND took.taken_at_ms > 0 AND took.item IS NOT NULL
  WITH took ORDER BY took.user DESC, took.taken_at_ms DESC, took.item DESC LIMIT $limit
  RETURN collect(took.item - $slot) AS items
}
RETURN key - $slot AS key, items
