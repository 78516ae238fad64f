-- Adds a service to those of its namespace, which are forgotten together. A pod says for how long they are kept; others
-- say so only if the service is new.
-- keys: services
-- args: service kept_ms of_a_pod
-- returns: added
-- writes: yes
-- rerun: safe
-- cost: 2 commands at most
local added = redis.pcall('SADD', KEYS[1], ARGV[1])
if type(added) == 'table' then
  if not string.find(added.err, 'WRONGTYPE') then return added end
  redis.call('DEL', KEYS[1])
  added = redis.call('SADD', KEYS[1], ARGV[1])
end
if added == 1 or ARGV[3] == '1' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return { added }
