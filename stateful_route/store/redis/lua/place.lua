-- Returns the link of a uid, made for the candidate if there is none, or if its owner is among the dead.
-- A temporary link is renewed and never shortened; a link in grace comes back, unless its owner is leaving.
-- The epoch of a new link is above `floor`, the highest that the client knows of: the clock may have been put back.
-- On one server `born` says when the table of the pods began that the client has read, and `pods` is that table. If it is
-- another one, the store has lost what was in it, and a uid without a link may be one of a living pod.
-- keys: link ended? pods?
-- args: pod incarnation ttl_ms floor born dead? leaving? channel?
-- returns: outcome ttl_ms previous kind pod incarnation epoch, in a line
-- writes: yes
-- rerun: safe
-- cost: 1 command for a persistent link, 3 for another, 4 for a new one
-- include: record -- history
local pods = KEYS[3]
local pods = KEYS[4] -- history
local lost -- not known yet
-- include: value
if plain and (ARGV[6] or '') == '' then return 'unchanged -1 - ' .. value end
-- include: clock
-- include: place_new
-- include: link
-- include: place_known
