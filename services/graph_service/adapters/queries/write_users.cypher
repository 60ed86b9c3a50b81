// What users took last.
UNWIND $rows AS row
MATCH (user:User {key: row.key})
USING INDEX SEEK user:User(key)
SET user.items = row.items, user.newest_items = row.newest_items, user.newest_at_ms = row.newest_at_ms
