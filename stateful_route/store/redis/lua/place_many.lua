-- Does for many uids at once what place.lua does for one; not on a cluster, where their keys are in many slots.
-- If `born` is not 0 the key of the pods comes last, behind those of the uids.
-- What does not work for one uid is an error in its place, and changes nothing for the others; READONLY is for all.
-- keys: link ended? ...
-- args: ttl_ms floor born dead leaving channel pod incarnation ...
-- returns: ...
-- writes: yes
-- rerun: safe
-- cost: for each uid that of place.lua, and a third less time: it begins once, and reads the clock once
-- include: record -- history
local keys, args = KEYS, ARGV
local pods = keys[#keys]
local lost -- not known yet: it is looked at once
local KEYS, ARGV = {}, { '', '', unpack(args, 1, 6) } -- those of one uid, for what follows
-- include: clock
-- include: link

local function place()
-- include: value
if plain and ARGV[6] == '' then return 'unchanged -1 - ' .. value end
-- include: place_new
-- include: place_known
end

local replies = {}
local count = (#args - 6) / 2
local each = math.floor((args[3] == '0' and #keys or #keys - 1) / count)
for i = 1, count do
  KEYS[1], KEYS[2] = keys[each * (i - 1) + 1], each == 2 and keys[2 * i] or nil
  KEYS[2], KEYS[3] = keys[3 * i - 1], keys[3 * i] -- history
  ARGV[1], ARGV[2] = args[2 * i + 5], args[2 * i + 6]
  local done, reply = pcall(place)
  if not done then
    if type(reply) ~= 'table' then -- before Redis 7 the error has the place in the script before it
      reply = { err = string.match(reply, '%u%u+ .*') or 'ERR ' .. reply }
    end
    -- Nothing was changed then, and who sent this has to see that it asks a replica.
    if string.find(reply.err, '^%-?READONLY') then return reply end
  end
  replies[i] = reply
end
return replies
