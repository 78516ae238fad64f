-- Writes the index of a uid, KEYS[2]: a hash, service -> "<pod> <deadline>", the deadline in milliseconds since 1970, 0
-- for none. ARGV[1] is the service.
--
-- Numbers in Lua are doubles, and tostring() of a large one loses digits: the numbers of a link stay text, and what is
-- calculated becomes text by integer().

local format = string.format
local time = redis.call('TIME')
local now_us = time[1] .. format('%06d', time[2])
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function integer(number)
  return format('%.0f', number)
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

-- Notes a link that ends in so many milliseconds, or never. If it is the only one of its uid, as it mostly is, the index
-- ends with it.
local function write_index(pod, left_ms)
  local entry = pod .. ' ' .. (left_ms and integer(now_ms + left_ms) or '0')
  local added = redis.pcall('HSET', KEYS[2], ARGV[1], entry)
  if type(added) == 'table' and added.err then
    if string.find(added.err, 'WRONGTYPE') then redis.call('DEL', KEYS[2]) end
    added = redis.call('HSET', KEYS[2], ARGV[1], entry)
  end
  if redis.call('HLEN', KEYS[2]) > 1 then
    tidy_index()
  elseif left_ms then
    redis.call('PEXPIRE', KEYS[2], left_ms)
  elseif added == 0 then
    redis.call('PERSIST', KEYS[2])
  end
end
