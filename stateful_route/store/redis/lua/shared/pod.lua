-- What the scripts that write the state of a pod share. KEYS[1] is the hash of the pods of a service, KEYS[2] and
-- KEYS[3] are the sorted sets of their versions and of their deadlines.
--
-- An entry of the hash is
-- "<incarnation> <sequence> <time> <lease> <state> <version> <load> <links> <placed> <process> <free> <rest>":
-- the time of the last heartbeat in milliseconds since 1970 by the clock of Redis, the lease in milliseconds, the
-- routing state or DEAD, the name of the process, when the leases of all older lives of other processes have ended, and
-- as JSON what else the pod reports. The version is that of the table when anything but sequence and time changed last;
-- the numbers are those that were told then (see worth_telling).
--
-- The field "table" is "<version> <digest> <pruned> <silent> <began> <born> <held> <settling> <awaited>": the newest
-- version, from the clock in microseconds and always rising; the sum of the versions of all entries, by which a client sees
-- that it knows all of them; when old pods were last looked for; when the last silence of all pods ended, or was noticed,
-- and when it began; when the table was made, in microseconds, by which a client sees that it is another one (0: a release
-- has written it that does not tell); until when clients that saw no table before place no uid that has no link, as pods may
-- own it that are not in the table yet; until when nobody does, as so many pods that left a moment ago are awaited.
--
-- A deadline is when the lease ends, in milliseconds; infinite for a dead life.

local MAX_EXACT = 9007199254740991
local DIGEST_MODULUS = 4503599627370496
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

-- Up to so many living pods every change of a number is told. Above, each pod has its turn once in so many seconds, or
-- more if more than so many changes a second would be told in the whole service.
local FEW, SHORTEST_TURN, TOLD_PER_SECOND = 4, 1, 100
-- The share of its load or links by which a pod may differ from what was told, after one turn of all pods.
local TOLERANCE = 0.02

local function integer(number)
  return string.format('%.0f', number)
end

local function parse_pod(entry)
  local incarnation, sequence, at_ms, lease_ms, state, version, load, links, placed, process, free_ms, rest =
    string.match(entry or '', '^(%d+) (%d+) (%d+) (%d+) ([A-Z_]+) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (.*)$')
  if not incarnation or tonumber(incarnation) >= MAX_EXACT then return nil end
  return {
    incarnation = tonumber(incarnation), sequence = tonumber(sequence),
    at_ms = tonumber(at_ms), lease_ms = tonumber(lease_ms), state = state, version = tonumber(version),
    load = load, links = links, placed = placed, process = process, free_ms = tonumber(free_ms), rest = rest,
  }
end

local pods = { version = 0, digest = 0, pruned_ms = 0 }
local OTHER_FIELDS = { 'silent_ms', 'began_ms', 'born', 'held_ms', 'settling_ms', 'awaited' }

local function deadline(pod)
  return pod.state == 'DEAD' and '+inf' or integer(pod.at_ms + pod.lease_ms)
end

local function read_own_field(text)
  local version, digest, pruned, others = string.match(text or '', '^(%d+) (%d+) (%d+)(.*)$')
  if version then pods.version, pods.digest, pods.pruned_ms = tonumber(version), tonumber(digest), tonumber(pruned) end
  local next_number = string.gmatch(others or '', '%d+')
  for _, name in ipairs(OTHER_FIELDS) do pods[name] = tonumber(next_number() or 0) end
  return version ~= nil
end

local function own_field()
  local text = integer(pods.version) .. ' ' .. integer(pods.digest) .. ' ' .. integer(pods.pruned_ms)
  for _, name in ipairs(OTHER_FIELDS) do text = text .. ' ' .. integer(pods[name]) end
  return text
end

-- Makes the sorted sets, and the field of the table, from the entries that can be read.
local function rebuild()
  redis.call('DEL', KEYS[2], KEYS[3])
  pods.digest = 0
  local entries = redis.call('HGETALL', KEYS[1])
  for i = 1, #entries, 2 do
    local known = parse_pod(entries[i + 1])
    if known then
      redis.call('ZADD', KEYS[2], integer(known.version), entries[i])
      redis.call('ZADD', KEYS[3], deadline(known), entries[i])
      pods.digest = (pods.digest + known.version) % DIGEST_MODULUS
      pods.version = math.max(pods.version, known.version)
    end
  end
  redis.call('HSET', KEYS[1], 'table', own_field())
  local left_ms = redis.call('PTTL', KEYS[1])
  if left_ms > 0 then
    redis.call('PEXPIRE', KEYS[2], left_ms)
    redis.call('PEXPIRE', KEYS[3], left_ms)
  end
end

local function is_sorted_set(key)
  return redis.call('TYPE', key).ok == 'zset'
end

-- Reads the field of the table, for a change. What was lost, or is of another type, is made again from the hash.
local function open_pods()
  local text = redis.pcall('HGET', KEYS[1], 'table')
  if type(text) == 'table' then
    if string.find(text.err, 'WRONGTYPE') then redis.call('DEL', KEYS[1]) end
    text = redis.call('HGET', KEYS[1], 'table') -- raises what was another error
  end
  local there = read_own_field(text)
  if not there then pods.born = now_us end
  if not there or not is_sorted_set(KEYS[2]) or not is_sorted_set(KEYS[3]) then rebuild() end
end

-- Gives an entry its next version; `before` is the one that it had, 0 for none.
local function new_version(before)
  pods.version = math.max(pods.version + 1, now_us)
  pods.digest = (pods.digest - before + pods.version) % DIGEST_MODULUS
  return pods.version
end

local function entry_of(pod)
  return integer(pod.incarnation) .. ' ' .. integer(pod.sequence) .. ' ' .. integer(pod.at_ms) .. ' '
    .. integer(pod.lease_ms) .. ' ' .. pod.state .. ' ' .. integer(pod.version) .. ' ' .. pod.load .. ' '
    .. pod.links .. ' ' .. pod.placed .. ' ' .. pod.process .. ' ' .. integer(pod.free_ms) .. ' ' .. pod.rest
end

-- Makes entries from the future as old as now. The clock was put back then, and a pod that is dead would count as alive
-- until it had caught up.
local function leave_future()
  open_pods()
  local entries = redis.call('HGETALL', KEYS[1])
  for i = 1, #entries, 2 do
    local pod = parse_pod(entries[i + 1])
    if pod and pod.at_ms > now_ms then
      pod.free_ms = math.max(0, pod.free_ms - (pod.at_ms - now_ms))
      pod.at_ms = now_ms
      redis.call('HSET', KEYS[1], entries[i], entry_of(pod))
      redis.call('ZADD', KEYS[3], deadline(pod), entries[i])
    end
  end
  pods.pruned_ms = math.min(pods.pruned_ms, now_ms)
  for _, name in ipairs({ 'silent_ms', 'began_ms', 'held_ms', 'settling_ms' }) do
    pods[name] = math.min(pods[name], now_ms)
  end
  redis.call('HSET', KEYS[1], 'table', own_field())
end

-- Writes an entry, whose version is a new one if `changed`. A pod that was there is in the sorted sets: if it is not,
-- one of these was lost. The keys end with the longest retention of a pod, renewed when a tenth of it has passed.
local function write_pod(name, pod, changed, was_there, retention_ms)
  local entry = entry_of(pod)
  local added = 0
  if changed then
    redis.call('HSET', KEYS[1], name, entry, 'table', own_field())
    added = redis.call('ZADD', KEYS[2], integer(pod.version), name)
  else
    redis.call('HSET', KEYS[1], name, entry)
  end
  local ended = redis.pcall('ZADD', KEYS[3], deadline(pod), name)
  if type(ended) == 'table' or (was_there and added + ended > 0) then
    open_pods()
    rebuild()
  end
  if redis.call('PTTL', KEYS[1]) < 0.9 * retention_ms then
    redis.call('PEXPIRE', KEYS[1], retention_ms)
    redis.call('PEXPIRE', KEYS[2], retention_ms)
    redis.call('PEXPIRE', KEYS[3], retention_ms)
  end
end

-- Whether numbers that differ from those that were told last are to be told now. A pod is told the sooner the more a
-- number moved, from a quarter of a turn on, and whatever moved after two to four turns, by chance, lest pods that began
-- together be told together.
local function worth_telling(known, load, links, placed, max_links)
  if known.load == load and known.links == links and known.placed == placed then return false end
  local living = redis.pcall('ZCOUNT', KEYS[3], '-inf', '(inf')
  if type(living) == 'table' then return true end -- of another type: a change makes it again
  local turn = math.max(SHORTEST_TURN, living / TOLD_PER_SECOND)
  local turns = (now_us - known.version) / 1000000 / turn
  if living <= FEW or turns >= 2 + now_us % 1000 / 500 then return true end
  if turns < 0 then return now_us % 1000 < 333 / turn end -- the clock was put back: by chance, once in three turns
  if turns < 0.25 then return false end
  local told_load, told_links = tonumber(known.load), tonumber(known.links)
  load, links = tonumber(load), tonumber(links)
  -- Near the limit of a pod each link counts.
  local room = max_links and math.max(1, max_links - math.max(links, told_links)) or math.huge
  local drift = math.max(
    math.abs(load - told_load) / math.max(1, load, told_load),
    math.abs(links - told_links) / math.min(math.max(1, links, told_links), room)
  )
  return drift * turns >= TOLERANCE
end

-- When a pod was heard last, or nearly: of the living ones, the one whose lease ends last.
local function heard_ms()
  local last = redis.pcall('ZREVRANGEBYSCORE', KEYS[3], '(inf', '-inf', 'LIMIT', 0, 1)
  if last.err and is_sorted_set(KEYS[3]) then error(last.err) end
  local pod = last[1] and parse_pod(redis.call('HGET', KEYS[1], last[1]))
  return pod and pod.at_ms or 0
end

-- Tells the clients of the service, on that channel, that the routing state of a pod, or its life, is another one.
local function announce(channel, pod, incarnation, state)
  redis.pcall('PUBLISH', channel, 'pod ' .. pod .. ' ' .. integer(incarnation) .. ' ' .. state)
end

-- Tells the pod too, of which another process, or a client, has said so.
local function announce_everywhere(channel, pod, incarnation, state)
  announce(channel, pod, incarnation, state)
  announce(channel .. ':' .. pod, pod, incarnation, state)
end
