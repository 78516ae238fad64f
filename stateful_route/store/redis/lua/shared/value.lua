-- Reads the value of the link, KEYS[1]. It is plain if it is a persistent link with nothing of a newer release: almost
-- all that are asked for are, and a script that need not change one answers with the value itself.
-- A value of another type is one that cannot be read. Any other error is the answer: what is there is not known.
local key, call = KEYS[1], redis.call -- each look-up of a global costs a new link 20 ns
local value = redis.pcall('GET', key)
local plain = false
if type(value) == 'string' then
  local pod, incarnation, epoch = string.match(value, '^p %d+() [0-8]%d*() [0-8]%d*()$') -- where each of them ends
  plain = pod and pod <= 12 and incarnation - pod <= 17 and epoch - incarnation <= 17
elseif value and not string.find(value.err, 'WRONGTYPE') then
  return value
end
