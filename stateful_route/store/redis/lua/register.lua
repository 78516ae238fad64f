-- Begins a life of a pod: a new incarnation, its first heartbeat, and tells both. A pod without an index gets the lowest
-- one that nobody can have: no life of it is known; or its last life, which was leased too, said goodbye or is confirmed
-- dead, and no older one can own any more. A process that asks again, as it was not answered, gets what it was given, and
-- nothing after its goodbye: such a call has arrived late. With `expected` it does
-- so only in place of the life that has that incarnation (0: of none), so that a call that arrives late changes nothing.
-- With `above` the incarnation is above that too, be it lost and the clock put back.
-- Where the caller knows the server as the primary for `known_ms` only, less than the lease of the life before, that life
-- may have been heard later at another primary.
-- A process that is older than the table proves that the store has lost what was in it: other pods that are not in it may
-- live, for a lease since then. The first pod of a server that has just started, or where channels of pods are listened to,
-- is told to wait, and then to ask again without `can_wait`: pods that live register again with their next heartbeat.
-- So is one that has no index, shortly after the first of them did: the indexes of the others are not free.
-- Where no pod lives, and others than this one left a moment ago, those are awaited: all restart together.
-- Pods that have said nothing for the retention are dropped; they are looked for a hundred times in that time at most.
-- keys: pods versions deadlines
-- args: pod lease_ms state load links placed rest retention_ms channel process? expected? above? can_wait? known_ms?
-- returns: incarnation previous_incarnation previous_left_ms own previous_born pod version wait_ms
-- writes: yes
-- rerun: safe; without `expected` each run begins another life, which supersedes the one before
-- cost: 14 commands, and 4 for each pod that is dropped; for a leased index one for each that is taken, and for all pods;
-- one for all pods if none lives
-- include: pod
local pod, retention_ms, lease_ms = ARGV[1], tonumber(ARGV[8]), tonumber(ARGV[2])
-- So many indexes are looked at for pods that listen. For so long one awaits the pods that left so lately.
local LISTENERS, SETTLING_MS, LATELY_MS = 64, 1500, 60000
local wait_ms = math.min(lease_ms / 4, 1500)
local objects_within_ms = wait_ms / 3
local is_new = redis.call('EXISTS', KEYS[1]) == 0
open_pods()
local process = ARGV[10] or ''
if process == '' then process = '-' end
-- A process is "<the first of its incarnations>:<name>", or the name alone before it has one.
local function name_of(text)
  return string.match(text, '[^:]*$')
end
local function is_free(name)
  local entry = redis.call('HGET', KEYS[1], name)
  if not entry then return true end
  local known = parse_pod(entry)
  local ended = known and (known.state == 'SHUTDOWN' or known.state == 'DEAD') and known.free_ms <= now_ms
  return ended and string.find(name_of(known.process), '^leased%-')
end
local function leased_index()
  local entries = process == '-' and {} or redis.call('HGETALL', KEYS[1])
  for i = 1, #entries, 2 do
    if string.find(entries[i + 1], process, 1, true) then
      local known = parse_pod(entries[i + 1])
      if known and name_of(known.process) == name_of(process) then return entries[i], known.state == 'SHUTDOWN' end
    end
  end
  local index = 0
  while not is_free(integer(index)) do index = index + 1 end
  return integer(index)
end
local late = false
if pod == '' then pod, late = leased_index() end
local before = parse_pod(redis.call('HGET', KEYS[1], pod))
local there = before and before.incarnation or 0
local own = before and process ~= '-' and name_of(before.process) == name_of(process) and 1 or 0
local born = before and tonumber(string.match(before.process, '^(%d+):') or '') or there
if late or ((ARGV[11] or '') ~= '' and tonumber(ARGV[11]) ~= there) then
  return { 0, there, 0, own, born, tonumber(pod), pods.version, 0 }
end
-- Whether a channel of a pod is listened to, which outlives the keys if they are flushed; a pod that lives objects at once.
local function is_listened_to()
  local listened_to = false
  for index = 0, LISTENERS - 1 do
    local heard_by = tostring(index) ~= ARGV[1] and redis.pcall('PUBLISH', ARGV[9] .. ':' .. index, 'pod ' .. index .. ' 0 DEAD')
    listened_to = listened_to or (type(heard_by) == 'number' and heard_by > 0)
  end
  return listened_to
end
-- For how many milliseconds pods that live may not have seen yet that the server is there again.
local function just_started()
  local info = redis.pcall('INFO', 'server')
  if type(info) ~= 'string' or string.find(info, 'tcp_port:0%s') then return 0 end -- a unix socket: it is the caller's own
  return math.max(0, wait_ms - 1000 * (string.match(info, 'uptime_in_seconds:(%d+)') or math.huge))
end
local first = tonumber(string.match(process, '^(%d+):') or '')
if first then
  if first < pods.born then pods.held_ms = math.max(pods.held_ms, math.floor(pods.born / 1000) + lease_ms) end
elseif is_new then
  local listened_to = is_listened_to()
  wait_ms = listened_to and objects_within_ms or just_started()
  if wait_ms > 0 and ARGV[13] == '1' then
    redis.call('DEL', KEYS[1])
    return { 0, 0, 0, 0, 0, tonumber(pod), 0, math.ceil(wait_ms) }
  end
  if listened_to then pods.held_ms = now_ms + lease_ms end
elseif ARGV[1] == '' and own == 0 and pods.held_ms > now_ms and ARGV[13] == '1' then
  local left_ms = pods.born / 1000 + wait_ms - now_ms
  if left_ms > 0 then return { 0, there, 0, own, born, tonumber(pod), pods.version, math.ceil(left_ms) } end
end
if before and before.at_ms > now_ms then
  leave_future()
  before = parse_pod(redis.call('HGET', KEYS[1], pod))
end
local heard = heard_ms()
if now_ms - heard > lease_ms / 2 then pods.silent_ms, pods.began_ms = now_ms, heard end
if pods.pruned_ms + retention_ms / 100 < now_ms then
  pods.pruned_ms = now_ms
  -- What has changed within the retention is younger than that.
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', integer(now_us - retention_ms * 1000))) do
    local old = parse_pod(redis.call('HGET', KEYS[1], name))
    if old and name ~= pod and old.at_ms + math.max(retention_ms, 2 * old.lease_ms) < now_ms then
      redis.call('HDEL', KEYS[1], name)
      redis.call('ZREM', KEYS[2], name)
      redis.call('ZREM', KEYS[3], name)
      pods.digest = (pods.digest - old.version) % DIGEST_MODULUS
    end
  end
end
-- How many pods left lately, if none lives: all restart together.
local function left_lately()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. now_ms, '(inf', 'LIMIT', 0, LISTENERS)) do
    local known = parse_pod(redis.call('HGET', KEYS[1], name))
    if known and known.state ~= 'SHUTDOWN' then return 0 end
  end
  local left, entries = 0, redis.call('HGETALL', KEYS[1])
  for i = 1, #entries, 2 do
    local known = entries[i] ~= pod and parse_pod(entries[i + 1])
    if known and known.at_ms + LATELY_MS > now_ms then left = left + 1 end
  end
  return left
end
if pods.settling_ms > now_ms then
  if own == 0 then pods.awaited = pods.awaited - 1 end
else
  pods.awaited = left_lately()
  pods.settling_ms = now_ms + SETTLING_MS
end
if pods.awaited <= 0 then pods.settling_ms = 0 end
local incarnation = math.max(there + 1, now_us, (tonumber(ARGV[12] or '') or 0) + 1)
-- When the older lives of other processes own nothing any more: the one before, and those before that.
local free_ms = before and before.free_ms or 0
if before and own == 0 and before.state ~= 'SHUTDOWN' and before.state ~= 'DEAD' then
  free_ms = math.max(free_ms, before.at_ms + before.lease_ms)
  local known_ms = tonumber(ARGV[14] or '') or math.huge
  if known_ms < before.lease_ms and free_ms + before.lease_ms > now_ms then free_ms = now_ms + before.lease_ms end
end
write_pod(pod, {
  incarnation = incarnation, sequence = 0, at_ms = now_ms, lease_ms = lease_ms, state = ARGV[3],
  version = new_version(before and before.version or 0), load = ARGV[4], links = ARGV[5], placed = ARGV[6],
  process = process, free_ms = free_ms, rest = ARGV[7],
}, true, before ~= nil, retention_ms)
announce_everywhere(ARGV[9], pod, incarnation, ARGV[3])
return { incarnation, there, math.max(0, free_ms - now_ms), own, born, tonumber(pod), pods.version, 0 }
