// The newest users of items whose packed list is too short.
UNWIND $keys AS key
CALL (key) {
  MATCH ()-[took:TOOK]->()
  USING INDEX SEEK took:TOOK(item, taken_at_ms, user)
  WHERE took.item = key AND took.taken_at_ms > 0 AND took.user IS NOT NULL
  WITH took ORDER BY took.item DESC, took.taken_at_ms DESC, took.user DESC LIMIT $limit
  RETURN collect(took.user - $slot) AS users
}
RETURN key - $slot AS key, users
