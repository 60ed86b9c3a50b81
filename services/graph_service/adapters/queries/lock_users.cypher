// Locks users, making those that are new, before what they took last is read: no other transaction changes it meanwhile.
UNWIND $keys AS key
MERGE (user:User {key: key})
SET user.locked = true
WITH user
RETURN collect([user.key, user.erased_at_ms, user.items, user.newest_items, user.newest_at_ms]) AS users
