-- Publishes a heartbeat of a life of a pod, and announces its routing state if that is another one, and that it drains.
-- The version of the table rises if the heartbeat says something that is worth telling to the clients; and above `highest`,
-- the highest epoch that the pod knows of, if that is ahead of the clock. It is told, so that new epochs are above it.
-- keys: pods versions deadlines
-- args: pod incarnation sequence lease_ms state load links placed max_links rest retention_ms channel highest
-- returns: outcome version
-- writes: yes
-- rerun: safe
-- cost: 6 commands, 7 if a number is another one, 10 if the version rises, whatever the number of pods and links
-- include: pod
local entry = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(entry) == 'table' and not string.find(entry.err, 'WRONGTYPE') then return entry end
local known = type(entry) == 'string' and parse_pod(entry) or nil
local incarnation, lease_ms, state, highest = tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[13])
if not known or known.incarnation < incarnation then return { 'unknown', 0 } end
if known.incarnation > incarnation then return { 'superseded', 0 } end
if known.state == 'DEAD' then return { 'dead', 0 } end
if known.sequence > tonumber(ARGV[3]) then return { 'outdated', 0 } end
if known.at_ms > now_ms then
  leave_future()
  known.free_ms, known.at_ms = math.max(0, known.free_ms - (known.at_ms - now_ms)), now_ms
end
local function drains(rest)
  return string.find(rest, '"draining":true', 1, true) ~= nil
end
local announced = known.state ~= state or (known.rest ~= ARGV[10] and drains(known.rest) ~= drains(ARGV[10]))
-- The first heartbeat after a silence of all pods says so to those that confirm deaths.
local half = known.lease_ms / 2
local heard = now_ms - known.at_ms > half and heard_ms() or now_ms
local after_silence = now_ms - heard > half
local changed = announced or after_silence or known.lease_ms ~= lease_ms or known.rest ~= ARGV[10]
  or worth_telling(known, ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]))
if changed then open_pods() else read_own_field(redis.call('HGET', KEYS[1], 'table')) end
if pods.version > 0 and highest > now_us and highest > pods.version then
  pods.version = highest
  if not changed then redis.call('HSET', KEYS[1], 'table', own_field()) end
end
if changed then
  if after_silence then pods.silent_ms, pods.began_ms = now_ms, heard end
  known.version = new_version(known.version)
  known.lease_ms, known.state, known.rest = lease_ms, state, ARGV[10]
  known.load, known.links, known.placed = ARGV[6], ARGV[7], ARGV[8]
end
known.sequence, known.at_ms = tonumber(ARGV[3]), now_ms
write_pod(ARGV[1], known, changed, true, tonumber(ARGV[11]))
if announced then announce(ARGV[12], ARGV[1], incarnation, state) end
return { 'accepted', pods.version }
