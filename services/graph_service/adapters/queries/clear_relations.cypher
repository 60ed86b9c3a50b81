// Removes some relations of a slot.
MATCH ()-[took:TOOK]->()
USING INDEX SEEK took:TOOK(item, user)
WHERE took.item >= $first AND took.item <= $last AND took.user IS NOT NULL
WITH took LIMIT $limit
DELETE took
RETURN count(*) AS removed
