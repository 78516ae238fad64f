-- Begins a life of a pod: a new incarnation, its first heartbeat, and the announcement of both.
-- Pods that have said nothing for the retention are dropped.
-- keys: pods
-- args: pod lease_ms state report retention_ms channel service
-- returns: incarnation previous_incarnation previous_left_ms
-- writes: yes
-- rerun: safe; each run begins another life, which supersedes the one before
-- cost: 5 commands, one of them over all pods of the service
-- include: pod
local pod, retention_ms = ARGV[1], tonumber(ARGV[5])
local entries = redis.pcall('HGETALL', KEYS[1])
if entries.err then
  redis.call('DEL', KEYS[1])
  entries = {}
end
local before
for i = 1, #entries, 2 do
  local known = parse_pod(entries[i + 1])
  if entries[i] == pod then
    before = known
  elseif known and known.at_ms + retention_ms < now_ms then
    redis.call('HDEL', KEYS[1], entries[i])
  end
end
local incarnation = math.max(before and before.incarnation + 1 or 0, now_us)
local left_ms = 0
if before and before.state ~= 'SHUTDOWN' and before.state ~= 'DEAD' then
  left_ms = math.max(0, before.at_ms + before.lease_ms - now_ms)
end
write_pod(pod, incarnation, 0, ARGV[2], ARGV[3], ARGV[4], retention_ms)
announce(ARGV[6], ARGV[7], pod, incarnation, ARGV[3])
return { incarnation, before and before.incarnation or 0, left_ms }
