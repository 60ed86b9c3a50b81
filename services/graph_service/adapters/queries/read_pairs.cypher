// What is known of pairs of an item and a user.
UNWIND $rows AS row
MATCH ()-[took:TOOK]->()
USING INDEX SEEK took:TOOK(item, user)
WHERE took.item = row[0] AND took.user = row[1]
RETURN collect([took.item, took.user, took.at_ms, took.weight]) AS pairs
