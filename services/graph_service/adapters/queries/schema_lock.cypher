// Takes the lock of the schema, or prolongs it; gives no row when somebody else has it.
MERGE (lock:SchemaLock {name: 'schema'})
SET lock.locked = true
WITH lock
WHERE coalesce(lock.owner, $owner) = $owner OR lock.until_ms < timestamp()
SET lock.owner = $owner, lock.until_ms = timestamp() + $ttl_ms
RETURN lock.owner AS owner
