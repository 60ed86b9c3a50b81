// Gives the lock of the schema back, if it is the owner's.
MATCH (lock:SchemaLock {name: 'schema'})
WHERE lock.owner = $owner
REMOVE lock.owner
