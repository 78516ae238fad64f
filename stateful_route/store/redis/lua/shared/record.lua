-- Writes the histories of links; only in the scripts of a store that keeps them, which have one key more for each link
-- and two arguments more at the end. These are taken away here, before anything else looks at the arguments.
-- keys: history
-- args: kept kept_ms
--
-- A history is a list of what has become of a link, the latest last, bounded in length, and in time from the latest on.
-- An entry is "<time> <why> <before> <after> <epoch> <draining>[ operator]": the clock in microseconds; who had the link before and
-- who has it now, as "<pod>:<incarnation>", and the epoch that it has now, "-" for nobody and none; "draining" if the pod
-- before was, as far as it had said so, or "-"; "operator" behind that if one has asked for it. A newer release may append fields after one more space: they are ignored.
-- It costs two commands, three once the history is full.
local kept_ms = tonumber(table.remove(ARGV))
local kept = tonumber(table.remove(ARGV))

local function life(link)
  return link and link.pod .. ':' .. link.incarnation or '-'
end

-- Adds an entry to a history. It is to be the first write: without the right to do so nothing is changed.
local function record(key, now_us, why, before, after, draining, by_operator)
  local entry = now_us .. ' ' .. why .. ' ' .. life(before) .. ' ' .. life(after) .. ' ' .. (after and after.epoch or '-')
    .. (draining and ' draining' or ' -') .. (by_operator and ' operator' or '')
  local count = redis.pcall('RPUSH', key, entry)
  if type(count) == 'table' then
    if string.find(count.err, 'WRONGTYPE') then redis.call('DEL', key) end
    count = redis.call('RPUSH', key, entry) -- raises what was another error
  end
  if count > kept then redis.call('LTRIM', key, -kept, -1) end
  redis.call('PEXPIRE', key, kept_ms)
end
