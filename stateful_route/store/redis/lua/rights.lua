-- Tries the commands that the scripts call, on a key of its own, and returns those that the user may not run. What it
-- writes it removes. Any other refusal, as that of a replica, is the answer. SET comes first of those that write: once
-- a script has written, a server without memory refuses it nothing. With `history` what histories need is tried too.
-- keys: key
-- args: channel history?
-- returns: ...
-- writes: yes
-- rerun: safe
-- cost: 25 commands, 29 with histories
local key, channel = KEYS[1], ARGV[1]
local tried = {
  { 'TIME' }, { 'INFO', 'server' }, { 'EXISTS', key }, { 'TYPE', key }, { 'PTTL', key },
  { 'SET', key, '', 'PX', 1000 }, { 'GET', key }, { 'PEXPIRE', key, 1000 }, { 'DEL', key },
  { 'HSET', key, 'a', '' }, { 'HGET', key, 'a' }, { 'HMGET', key, 'a' }, { 'HGETALL', key }, { 'HDEL', key, 'a' }, { 'DEL', key },
  { 'SADD', key, 'a' }, { 'SMEMBERS', key }, { 'DEL', key },
  { 'ZADD', key, 0, 'a' }, { 'ZCOUNT', key, 0, 0 }, { 'ZRANGEBYSCORE', key, 0, 0 }, { 'ZREVRANGEBYSCORE', key, 0, 0 },
  { 'ZREM', key, 'a' }, { 'DEL', key },
  { 'PUBLISH', channel, '' },
}
if ARGV[2] then
  for _, command in ipairs({ { 'RPUSH', key, 'a' }, { 'LTRIM', key, 0, 0 }, { 'LRANGE', key, 0, 0 }, { 'DEL', key } }) do
    tried[#tried + 1] = command
  end
end
local makes = { HSET = true, SADD = true, ZADD = true, RPUSH = true }
local denied, may_remove = {}, true
for _, command in ipairs(tried) do
  if may_remove or not makes[command[1]] then
    local answer = redis.pcall(unpack(command))
    local text = type(answer) == 'table' and answer.err or ''
    if string.find(text, 'NOPERM') or string.find(text, 'ACL failure') or string.find(text, 'no permissions') then
      denied[#denied + 1] = command[1]
      if command[1] == 'DEL' then may_remove = false end
    elseif text ~= '' and not string.find(text, 'WRONGTYPE') then
      return answer
    end
  end
end
return denied
