// Forgets what erased users did.
UNWIND $rows AS row
MATCH ()-[took:TOOK]->()
USING INDEX SEEK took:TOOK(item, user)
WHERE took.item = row[0] AND took.user = row[1]
DELETE took
