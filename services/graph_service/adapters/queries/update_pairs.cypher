// Pairs that met again.
UNWIND $rows AS row
MATCH ()-[took:TOOK]->()
USING INDEX SEEK took:TOOK(item, user)
WHERE took.item = row.item AND took.user = row.user
SET took.at_ms = row.at_ms, took.weight = row.weight, took.taken_at_ms = row.taken_at_ms
