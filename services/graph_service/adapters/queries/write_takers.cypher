// Who took items last.
UNWIND $rows AS row
MATCH (item:Item {key: row.key})
USING INDEX SEEK item:Item(key)
SET item.users = row.users, item.newest_users = row.newest_users, item.newest_at_ms = row.newest_at_ms
