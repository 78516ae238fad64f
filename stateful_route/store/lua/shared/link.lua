-- What the scripts of a link share. KEYS[1] is the link, KEYS[2] the index of its uid, ARGV[1] the service, ARGV[2]
-- the channel of the announcements.
--
-- A link is the string "<kind> <pod> <incarnation> <epoch>", its kind being t(emporary), p(ersistent) or g(race).
-- A newer release may append fields after one more space: they are ignored, and kept while the owner stays.
-- The index is a hash: service -> "<pod> <deadline>", the deadline in milliseconds since 1970, 0 for none.
--
-- Numbers in Lua are doubles, and tostring() of a large one loses digits: integers become text by integer().

local KIND_NAMES = { t = 'temporary', p = 'persistent', g = 'grace' }
local MAX_EXACT = 9007199254740991
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local function integer(number)
  return string.format('%.0f', number)
end

local function parse_link(value)
  local kind, pod, incarnation, epoch, more = string.match(value, '^([tpg]) (%d+) (%d+) (%d+)(.*)$')
  if not kind or not (more == '' or string.sub(more, 1, 1) == ' ') then return nil end
  local link = {
    kind = kind, pod = tonumber(pod), incarnation = tonumber(incarnation), epoch = tonumber(epoch), more = more,
  }
  if link.pod > 2147483647 or link.incarnation > MAX_EXACT or link.epoch >= MAX_EXACT then return nil end
  return link
end

-- Returns the link or nil, and whether there is a value that cannot be read.
local function read_link()
  local value = redis.pcall('GET', KEYS[1])
  if not value then return nil, false end
  local link = type(value) == 'string' and parse_link(value) or nil
  if not link then return nil, true end
  link.left_ms = redis.call('PTTL', KEYS[1])
  if link.left_ms < 0 and link.kind ~= 'p' then return nil, true end
  return link, false
end

-- Whether the list "pod:incarnation,..." has this life of the owner or a newer one.
local function among(link, lives)
  for pod, incarnation in string.gmatch(lives, '(%d+):(%d+)') do
    if tonumber(pod) == link.pod and tonumber(incarnation) >= link.incarnation then return true end
  end
  return false
end

-- Drops what has ended from the index, and lets it end with the last of its links.
local function tidy_index()
  local entries = redis.call('HGETALL', KEYS[2])
  local latest, endless = 0, false
  for i = 1, #entries, 2 do
    local deadline = tonumber(string.match(entries[i + 1], '^%d+ (%d+)$') or '1')
    if deadline == 0 then
      endless = true
    elseif deadline <= now_ms then
      redis.call('HDEL', KEYS[2], entries[i])
    elseif deadline > latest then
      latest = deadline
    end
  end
  if endless then
    redis.call('PERSIST', KEYS[2])
  elseif latest > 0 then
    redis.call('PEXPIREAT', KEYS[2], integer(latest))
  end
end

local function write_link(link)
  local value = link.kind .. ' ' .. integer(link.pod) .. ' ' .. integer(link.incarnation) .. ' '
    .. integer(link.epoch) .. link.more
  local deadline_ms = 0
  if link.kind == 'p' then
    link.left_ms = -1
    redis.call('SET', KEYS[1], value)
  else
    deadline_ms = now_ms + link.left_ms
    redis.call('SET', KEYS[1], value, 'PX', integer(link.left_ms))
  end
  local entry = integer(link.pod) .. ' ' .. integer(deadline_ms)
  local written = redis.pcall('HSET', KEYS[2], ARGV[1], entry)
  if type(written) == 'table' and written.err then
    redis.call('DEL', KEYS[2])
    redis.call('HSET', KEYS[2], ARGV[1], entry)
  end
  tidy_index()
end

local function delete_link()
  redis.call('DEL', KEYS[1])
  local deleted = redis.pcall('HDEL', KEYS[2], ARGV[1])
  if type(deleted) == 'number' and deleted > 0 then tidy_index() end
end

-- A link for a new owner: its epoch is above that of the link before.
local function new_link(kind, pod, incarnation, left_ms, before)
  return {
    kind = kind, pod = tonumber(pod), incarnation = tonumber(incarnation), left_ms = left_ms, more = '',
    epoch = math.max(before and before.epoch + 1 or 0, now_us),
  }
end

-- Tells everybody that what they know of the link up to that epoch is not so any more. A user without the right to
-- publish has no right to subscribe either, as a rule: its clients are deaf, and use no cache.
local function announce(epoch)
  redis.pcall('PUBLISH', ARGV[2], 'link ' .. KEYS[1] .. ' ' .. integer(epoch))
end

-- Writes a link for a new owner. It is announced if somebody may know another: a link that was not there is in no cache.
local function write_new_link(link, before, unreadable)
  write_link(link)
  if before then
    announce(before.epoch)
  elseif unreadable then
    announce(link.epoch - 1)
  end
end

-- The reply of every operation on a link. `before` is given if the owner or its incarnation changed.
local function reply(outcome, link, before)
  local previous = ''
  if before then
    previous = integer(before.pod) .. ':' .. integer(before.incarnation) .. ':' .. integer(before.epoch)
  end
  if not link then return { outcome, 0, 0, 0, '', 0, previous } end
  return { outcome, link.pod, link.incarnation, link.epoch, KIND_NAMES[link.kind], link.left_ms, previous }
end

local function created(unreadable)
  return unreadable and 'overwritten' or 'created'
end
