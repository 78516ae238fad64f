-- Begins a life of a pod: a new incarnation, its first heartbeat, and the announcement of both.
-- Pods that have said nothing for the retention are dropped; they are looked for a hundred times in that time at most.
-- keys: pods versions deadlines
-- args: pod lease_ms state load links placed rest retention_ms channel service
-- returns: incarnation previous_incarnation previous_left_ms
-- writes: yes
-- rerun: safe; each run begins another life, which supersedes the one before
-- cost: 13 commands, and 4 for each pod that is dropped
-- include: pod
local pod, retention_ms = ARGV[1], tonumber(ARGV[8])
open_pods()
local heard = heard_ms()
if now_ms - heard > tonumber(ARGV[2]) / 2 then pods.silent_ms, pods.began_ms = now_ms, heard end
if pods.pruned_ms + retention_ms / 100 < now_ms then
  pods.pruned_ms = now_ms
  -- What has changed within the retention is younger than that.
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', integer(now_us - retention_ms * 1000))) do
    local old = parse_pod(redis.call('HGET', KEYS[1], name))
    if old and name ~= pod and old.at_ms + retention_ms < now_ms then
      redis.call('HDEL', KEYS[1], name)
      redis.call('ZREM', KEYS[2], name)
      redis.call('ZREM', KEYS[3], name)
      pods.digest = (pods.digest - old.version) % DIGEST_MODULUS
    end
  end
end
local before = parse_pod(redis.call('HGET', KEYS[1], pod))
local incarnation = math.max(before and before.incarnation + 1 or 0, now_us)
local left_ms = 0
if before and before.state ~= 'SHUTDOWN' and before.state ~= 'DEAD' then
  -- Not more than the lease, if the clock was put back.
  left_ms = math.max(0, math.min(before.lease_ms, before.at_ms + before.lease_ms - now_ms))
end
write_pod(pod, {
  incarnation = incarnation, sequence = 0, at_ms = now_ms, lease_ms = tonumber(ARGV[2]), state = ARGV[3],
  version = new_version(before and before.version or 0), load = ARGV[4], links = ARGV[5], placed = ARGV[6],
  rest = ARGV[7],
}, true, before ~= nil, retention_ms)
announce(ARGV[9], ARGV[10], pod, incarnation, ARGV[3])
return { incarnation, before and before.incarnation or 0, left_ms }
