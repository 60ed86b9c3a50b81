// Forgets what erased users did.
UNWIND $rows AS row
MATCH ()-[took:TOOK]->()
USING INDEX took:TOOK(item, user)
WHERE took.item = row[0] AND took.user = row[1]
DELETE took
