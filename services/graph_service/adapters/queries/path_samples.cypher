// A random sample of each item's users, the same for every item: keys are hashes, and these are the smallest.
UNWIND $keys AS key
CALL (key) {
  MATCH ()-[took:TOOK]->()
  USING INDEX SEEK took:TOOK(item, user)
  WHERE took.item = key AND took.user IS NOT NULL AND took.taken_at_ms IS NOT NULL
  WITH took ORDER BY took.item, took.user LIMIT $limit
  RETURN collect(took.user - $slot) AS users
}
RETURN collect([key - $slot, users]) AS samples
