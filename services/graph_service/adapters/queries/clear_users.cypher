// Removes some users of a slot, whose relations are gone already.
MATCH (user:User)
USING INDEX SEEK user:User(key)
WHERE user.key >= $first AND user.key <= $last
WITH user LIMIT $limit
DETACH DELETE user
RETURN count(*) AS removed
