// How many items users took.
UNWIND $keys AS key
MATCH (user:User {key: key})
USING INDEX SEEK user:User(key)
RETURN collect(user.key - $slot) AS keys, collect(user.items) AS degrees
