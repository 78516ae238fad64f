-- Ends a life of a pod whose process is known to be gone, as a confirmed death does, whatever is left of its lease. One
-- that is superseded, said goodbye, is dead or is not known has ended. One beside which an older life of the pod may
-- still own ends with the lease of that: clients take the links of both at once.
-- keys: pods versions deadlines
-- args: pod incarnation retention_ms channel
-- returns: ended
-- writes: yes
-- rerun: safe
-- cost: 2 commands, 10 if it is ended now
-- include: pod
-- include: death
local entry = redis.call('HGET', KEYS[1], ARGV[1])
local known = entry and parse_pod(entry)
if entry and not known then return { 0 } end
if not known or known.incarnation ~= tonumber(ARGV[2]) or known.state == 'SHUTDOWN' or known.state == 'DEAD' then
  return { 1 }
end
if known.at_ms > now_ms then
  leave_future()
  known = parse_pod(redis.call('HGET', KEYS[1], ARGV[1]))
end
if known.free_ms > now_ms then return { 0 } end
open_pods()
write_death(ARGV[1], known, true, tonumber(ARGV[3]), ARGV[4])
return { 1 }
