-- Publishes a heartbeat of a life of a pod, and announces its routing state if that is another one.
-- keys: pods
-- args: pod incarnation sequence lease_ms state report retention_ms channel service
-- returns: outcome
-- writes: yes
-- rerun: safe
-- cost: 4 commands
-- include: pod
local entry = redis.pcall('HGET', KEYS[1], ARGV[1])
local known = type(entry) == 'string' and parse_pod(entry) or nil
local incarnation = tonumber(ARGV[2])
if not known or known.incarnation < incarnation then return { 'unknown' } end
if known.incarnation > incarnation then return { 'superseded' } end
if known.state == 'DEAD' then return { 'dead' } end
if known.sequence > tonumber(ARGV[3]) then return { 'outdated' } end
write_pod(ARGV[1], incarnation, ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]))
if known.state ~= ARGV[5] then announce(ARGV[8], ARGV[9], ARGV[1], incarnation, ARGV[5]) end
return { 'accepted' }
