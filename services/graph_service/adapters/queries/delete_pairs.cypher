// Forgets what erased users did.
UNWIND $rows AS row
MATCH (:User)-[took:TOOK]->(:Item)
WHERE took.item = row[0] AND took.user = row[1]
DELETE took
