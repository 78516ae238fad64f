-- Lists the services of a namespace, encoded as in its keys.
-- keys: services
-- args:
-- returns: ...
-- writes: no
-- rerun: safe
-- cost: 1 command
local services = redis.pcall('SMEMBERS', KEYS[1])
if services.err and string.find(services.err, 'WRONGTYPE') then services = {} end
return services
