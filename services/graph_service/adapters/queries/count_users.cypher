// How many users of a slot have relations.
MATCH (user:User)
USING INDEX SEEK user:User(key)
WHERE user.key >= $first AND user.key <= $last AND user.items > 0
RETURN count(*) AS users
