-- What the scripts of a link share, after shared/clock.lua.
--
-- A link is the string "<kind> <pod> <incarnation> <epoch>", its kind being t(emporary), p(ersistent) or g(race).
-- A newer release may append fields after one more space: they are ignored, and kept while the owner stays.
--
-- Numbers in Lua are doubles, and tostring() of a large one loses digits: the numbers of a link stay text, and what is
-- calculated becomes text by integer().

local MAX_EXACT = 9007199254740991
-- For how long it is known which link of a uid ended last; as in links.py.
local ENDED_MS = 60000

local function integer(number)
  return string.format('%.0f', number)
end

-- Returns the link that a value is, or nil, and whether it cannot be read.
local function read_link(value)
  if not value then return nil, false end
  if type(value) ~= 'string' then return nil, true end
  local kind, pod, incarnation, epoch, more = string.match(value, '^([tpg]) (%d+) (%d+) (%d+)(.*)$')
  if not kind or not (more == '' or string.sub(more, 1, 1) == ' ') then return nil, true end
  if tonumber(pod) > 2147483647 or tonumber(incarnation) > MAX_EXACT or tonumber(epoch) >= MAX_EXACT then
    return nil, true
  end
  local left_ms = -1
  if kind ~= 'p' then
    left_ms = redis.call('PTTL', KEYS[1])
    if left_ms < 0 then return nil, true end
  end
  return { kind = kind, pod = pod, incarnation = incarnation, epoch = epoch, more = more, left_ms = left_ms }, false
end

-- Whether the link is held by this life of a pod.
local function is_owner(link, pod, incarnation)
  return tonumber(link.pod) == tonumber(pod) and tonumber(link.incarnation) == tonumber(incarnation)
end

-- Whether the list "pod:incarnation,..." has this life of the owner or a newer one.
local function among(link, lives)
  if not lives or lives == '' then return false end
  for incarnation in string.gmatch(',' .. lives, ',' .. tonumber(link.pod) .. ':(%d+)') do
    if tonumber(incarnation) >= tonumber(link.incarnation) then return true end
  end
  return false
end

local function write_link(link)
  local text = link.kind .. ' ' .. link.pod .. ' ' .. link.incarnation .. ' ' .. link.epoch .. link.more
  if link.kind == 'p' then
    link.left_ms = -1
    redis.call('SET', KEYS[1], text)
  else
    redis.call('SET', KEYS[1], text, 'PX', integer(link.left_ms))
  end
end

-- Notes that the tenure of a link has ended, or will with its grace: who claims the uid next can tell whether anybody
-- had it in between.
local function mark_ended(link, grace_ms)
  redis.call('SET', KEYS[2], link.epoch, 'PX', integer(ENDED_MS + grace_ms))
end

-- Returns the epoch of the tenure of the uid that ended last before that of the link with this epoch, or before now if
-- it is nil; nil if that is not known. The mark is "<ended>", or "<ended> <began>" once another tenure has begun, or
-- "<ended> <began> <move>" if that began by a move, whose name is returned too.
local function last_ended(epoch)
  local mark = redis.pcall('GET', KEYS[2])
  mark = type(mark) == 'string' and #mark <= 66 and mark or ''
  local ended, began, move = string.match(mark, '^(%d+) ?(%d*) ?(%w*)$')
  if not ended or #ended > 16 or #began > 16 then return nil end
  if began == '' or began == epoch then return ended, move ~= '' and move or nil end
  return began -- its link was lost, and did not end
end

-- Notes that a tenure has begun, so that whoever asks again is told the same, and one that is lost is not overlooked.
local function mark_begun(last, link)
  if last then redis.call('SET', KEYS[2], last .. ' ' .. link.epoch, 'PX', ENDED_MS) end
end

-- Notes that the tenure of a link has ended by a move of that name, and which link it made.
local function mark_moved(link, moved, move)
  redis.call('SET', KEYS[2], link.epoch .. ' ' .. moved.epoch .. ' ' .. move, 'PX', ENDED_MS)
end

-- A link for a new owner: its epoch is above that of the link before, and of the one that ended last, and the highest that
-- the caller knows of in the service, if these are given.
local function new_link(kind, pod, incarnation, left_ms, before, last, floor)
  local epoch = now_us
  if floor and tonumber(floor) >= tonumber(epoch) then epoch = integer(floor + 1) end
  if last and tonumber(last) >= tonumber(epoch) then epoch = integer(last + 1) end
  if before and tonumber(before.epoch) >= tonumber(epoch) then epoch = integer(before.epoch + 1) end
  return { kind = kind, pod = pod, incarnation = incarnation, epoch = epoch, more = '', left_ms = left_ms }
end

-- Tells the clients of the service, on that channel, that what they cached of the link is stale up to its epoch. A user
-- without the right to publish has no right to subscribe either, as a rule: its clients are deaf, and use no cache.
local function invalidate(channel, link)
  local uid = string.match(KEYS[1], '^[^{]*{[^:]*:(.*)}') -- as in store/keys.py
  redis.pcall('PUBLISH', channel, 'link ' .. uid .. ' ' .. link.epoch)
end

-- Tells the pod that had the link too.
local function invalidate_everywhere(channel, link)
  invalidate(channel, link)
  invalidate(channel .. ':' .. link.pod, link)
end

-- The reply of every operation on a link. `before` is given if the owner or its incarnation changed.
local function reply(outcome, link, before)
  local previous = before and before.pod .. ':' .. before.incarnation .. ':' .. before.epoch or '-'
  if not link then return outcome .. ' 0 ' .. previous .. ' - 0 0 0' end
  return outcome .. ' ' .. integer(link.left_ms) .. ' ' .. previous .. ' '
    .. link.kind .. ' ' .. link.pod .. ' ' .. link.incarnation .. ' ' .. link.epoch
end

local function created(unreadable)
  return unreadable and 'overwritten' or 'created'
end
