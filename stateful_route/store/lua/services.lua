-- Lists the services of a namespace, encoded as in its keys.
-- keys: services
-- args:
-- returns: ...
-- writes: no
-- rerun: safe
-- cost: 1 command
return redis.call('SMEMBERS', KEYS[1])
