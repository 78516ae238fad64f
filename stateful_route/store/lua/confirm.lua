-- Confirms the death of a life of a pod, which is final, and announces it: the life is the newest of its pod and either
-- said goodbye or let its lease pass; or the pod is not known at all, and gets an entry that says so.
-- keys: pods
-- args: pod incarnation retention_ms channel service
-- returns: dead
-- writes: yes
-- rerun: safe
-- cost: 5 commands
-- include: pod
local entry = redis.call('HGET', KEYS[1], ARGV[1])
local known = entry and parse_pod(entry)
local incarnation = tonumber(ARGV[2])
if entry and not known then return { 0 } end
if known and known.state == 'DEAD' then
  if known.incarnation >= incarnation then return { 1 } end
elseif known then
  if known.incarnation ~= incarnation then return { 0 } end
  if known.state ~= 'SHUTDOWN' and known.at_ms + known.lease_ms > now_ms then return { 0 } end
end
-- What it said last stays readable.
local report = entry and string.match(entry, '^%d+ %d+ %d+ %d+ [A-Z_]+ (.*)$') or '{}'
local sequence, lease_ms = known and integer(known.sequence) or '0', known and integer(known.lease_ms) or '1'
write_pod(ARGV[1], incarnation, sequence, lease_ms, 'DEAD', report, tonumber(ARGV[3]))
announce(ARGV[4], ARGV[5], ARGV[1], incarnation, 'DEAD')
return { 1 }
