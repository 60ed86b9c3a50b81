// What erased users did up to their erasure.
UNWIND $rows AS row
MATCH (user:User {key: row.key})-[took:TOOK]->(:Item)
USING INDEX SEEK user:User(key)
WHERE took.at_ms <= row.until_ms
RETURN collect([took.item, took.user, took.at_ms, took.weight]) AS pairs
