-- What the scripts that end a life share; behind pod.lua.

-- Writes that a life of a pod is dead, which is final, and announces it. What it said last stays readable, and when.
local function write_death(name, dead, was_there, retention_ms, channel)
  dead.state, dead.version = 'DEAD', new_version(dead.version)
  write_pod(name, dead, true, was_there, retention_ms)
  announce_everywhere(channel, name, dead.incarnation, 'DEAD')
end
