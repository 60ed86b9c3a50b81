// Up to when users are forgotten.
UNWIND $rows AS row
MATCH (user:User {key: row.key})
USING INDEX SEEK user:User(key)
SET user.erased_at_ms = row.until_ms
