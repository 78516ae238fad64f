-- Adds a service to those of its namespace, which are forgotten together when none was added for so long.
-- keys: services
-- args: service kept_ms
-- returns: added
-- writes: yes
-- rerun: safe
-- cost: 2 commands
local added = redis.pcall('SADD', KEYS[1], ARGV[1])
if type(added) == 'table' then
  if not string.find(added.err, 'WRONGTYPE') then return added end
  redis.call('DEL', KEYS[1])
  added = redis.call('SADD', KEYS[1], ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return { added }
