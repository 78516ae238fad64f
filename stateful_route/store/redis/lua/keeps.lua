-- Tries what a store that keeps histories calls besides, on a key of its own, which it removes. Returns what the server
-- says of each command that the user may not run; of another refusal nothing, as the next call tells it.
-- keys: key
-- args:
-- returns: ...
-- writes: yes
-- rerun: safe
-- cost: 4 commands
local denied = {}
for _, command in ipairs({ { 'RPUSH', KEYS[1], '' }, { 'LTRIM', KEYS[1], 0, 0 }, { 'PEXPIRE', KEYS[1], 1000 }, { 'DEL', KEYS[1] } }) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err and string.find(answer.err, 'no permissions') then
    denied[#denied + 1] = answer.err
  end
end
return denied
