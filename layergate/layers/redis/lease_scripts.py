"""Leases, as Lua that runs inside of Redis.

The keys of one call lie in one slot of a Cluster. A script runs as a whole or not at all.
"""

from __future__ import annotations

from typing import Final

from layergate.layers.redis.script import Script

__all__ = ["ACQUIRE", "FENCED_SET", "LOOK", "MEND_LEASE", "RELEASE", "RENEW"]

# The value of a lease is its holder's token, whose first byte is above 127; once released, "done:"
# (or "free:": it need not be taken, because what is fetched is not shared) and that token, for one more
# term. The instances that wait for it are a set.

# KEYS lease, waiters  ARGV token, term in ms, instance or ""
# -> 1 and whether it was released lately | 0, ms left, the holder's token
ACQUIRE: Final = Script.of(
    "acquire",
    """
local holder = redis.call('GET', KEYS[1])
-- The caller has gone, and its release has overtaken this.
if holder == 'done:' .. ARGV[1] then return {0, 0, holder} end
if not holder or string.byte(holder) < 128 or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  local recent = 0
  if holder and holder ~= ARGV[1] then recent = 1 end
  return {1, recent, ''}
end
if ARGV[3] ~= '' then
  redis.call('SADD', KEYS[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], math.max(2 * ARGV[2], 60000))
end
return {0, redis.call('PTTL', KEYS[1]), holder}
""",
)

# KEYS lease, waiters  ARGV the token that was seen, term in ms, instance or ""
# -> ms left while that one holds it, else -1, or -2 if it was released as not shared
LOOK: Final = Script.of(
    "look",
    """
local holder = redis.call('GET', KEYS[1])
if holder == 'free:' .. ARGV[1] then return -2 end
if holder ~= ARGV[1] then return -1 end
if ARGV[3] ~= '' then
  redis.call('SADD', KEYS[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], math.max(2 * ARGV[2], 60000))
end
return math.max(0, redis.call('PTTL', KEYS[1]))
""",
)

# KEYS lease  ARGV token, term in ms  -> 1 if it is ours. One that ran out, or was lost in a
# failover, is ours as long as no other has taken it.
RENEW: Final = Script.of(
    "renew",
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""",
)

# KEYS lease, waiters  ARGV token, term in ms, the channels' prefix, message, "1" if it is
# not known whether it was ever granted, or will be  -> 1 if it was ours
RELEASE: Final = Script.of(
    "release",
    """
local holder = redis.call('GET', KEYS[1])
if ARGV[5] == '1' and holder ~= ARGV[1] then
  if not holder or string.byte(holder) < 128 then
    redis.call('SET', KEYS[1], 'done:' .. ARGV[1], 'PX', ARGV[2])
  end
  return 0
end
if holder and holder ~= ARGV[1] then return 0 end
local word = 'done:'
if ARGV[6] == '1' then word = 'free:' end
-- Also if it ran out: a renewal that comes late must not take it again.
redis.call('SET', KEYS[1], word .. ARGV[1], 'PX', ARGV[2])
for _, one in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  redis.pcall('PUBLISH', ARGV[3] .. one, ARGV[4])
end
redis.call('DEL', KEYS[2])
return 1
""",
)

# KEYS lease, entry  ARGV token, blob, ms to live  -> 1 if it was written. What was fetched under a
# lease that somebody else has taken since, or has even released again, is older than theirs.
FENCED_SET: Final = Script.of(
    "fenced set",
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= 'done:' .. ARGV[1] and holder ~= 'free:' .. ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
""",
)

# Somebody else has written into these keys, so that no script can read them: as if they were lost.
# KEYS lease and perhaps waiters -> 1 if that was so
MEND_LEASE: Final = Script.of(
    "mend lease",
    """
local mended = 0
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and (kind ~= 'string' or redis.call('STRLEN', KEYS[1]) == 0) then
  mended = redis.call('DEL', KEYS[1])
end
if KEYS[2] then
  kind = redis.call('TYPE', KEYS[2]).ok
  if kind ~= 'none' and kind ~= 'set' then mended = redis.call('DEL', KEYS[2]) end
end
return mended
""",
)
