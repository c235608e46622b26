"""The log of purges, as Lua that runs inside of Redis: why it keeps the rules of a `Journal`.

Portable from Redis 6.2 and Valkey 7.2 on, Cluster included: the keys of one call lie in one slot and
are named in KEYS; nothing walks the keyspace; the work of one call is bounded. A script runs as a
whole or not at all, and is replicated by its effects, so a replica never holds half of one.

All scripts begin with the same *prologue*, which looks at the server before anything else is done: was
it emptied, has another one taken over, is the caller ahead of it?

Redis keeps a stream of records and a sorted set of *members*: instance -> until when it counts as alive,
for ``term`` from its last sync. ``term`` is longer than ``max_disconnected``, for which an instance is
trusted. A purge is final when one script has found its record in the stream, acknowledged by every
member, and no *settling* under way. Rules 3 to 5 of `layergate.shared.journal` follow:

- *Trust* (3). Purge R is reported final by a script at f. Instance I is trusted at t >= f, by a sync sent
  at s and executed at r, with s <= r and t < s + max_disconnected. If R was appended before r, the sync
  brought R or I was past it, because a sync makes a member only if it brings all there is. If R was
  appended after r: I was a member until r + term > t >= f, by the fleet's clock (below), so the script
  at f counted it, and found its acknowledgement of R's position.
- *Acknowledgement* (4). Every script compares incarnation and tip of the caller's place before it takes
  the position for an acknowledgement.
- *Loss* (5). If Redis was emptied, failed over, or evicted the list of members, whatever script comes
  first afterwards detects it and starts a settling: no purge is final for the next ``term``, by which
  time every trust that was granted before the loss is over.

**Time.** Memberships end by the *fleet's clock*, which is Redis's own without its steps: it never goes
backward, and forward by at most one ``stride`` from call to call, which is how much longer ``term`` is
than ``max_disconnected``. A rate that differs by less than a fifth is covered too. No clocks of two
machines are compared.

**What this rests on.** One Redis holds the log. A primary that was cut off, together with some instances,
and goes on writing while a replica was promoted, is a second one: give it ``min-replicas-to-write 1``.
Where scripts may not ask INFO, a failover is only detected by an instance that is ahead of the new
primary. All instances have the same ``max_disconnected``.
"""

from __future__ import annotations

from typing import Final

from layergate.layers.redis.script import Script

__all__ = ["APPEND", "LEAVE", "MEND", "STATUS", "SYNC"]

# KEYS  1 log      stream: the records, with the ids "n-0": p the position of the one before, o the
#                  nonce, r the record, t the *tip*: the SHA-1 of the tip before, nonce and record
#       2 meta     hash: log (incarnation), seal, n (last position), tip, run (the server's run_id),
#                  settle, at, clock, size, term, kept, leap (position of the last one)
#       3 members  sorted set: instance -> until when it counts as alive, on the fleet's clock
#       4 acks     hash: instance -> the position it has applied
#       5 again    hash: what was appended once more after it had been lost -> its new position
# ARGV  1 16 random bytes    2 term of a membership, ms     3 stride of the clock, ms
#       4 length of the log  5 the caller's incarnation, or ""   6 the position it has applied
#       7 the tip there, or ""   8 instance, or ""   9 "1" to be a member   10 limit
#       11 the seal of the 16 bytes   12 an incarnation that the caller refuses, or ""
_PROLOGUE: Final = """
local LOG, META, MEMBERS, ACKS, AGAIN = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local fresh, stride, instance = ARGV[1], tonumber(ARGV[3]), ARGV[8]
local mine, applied, tip = ARGV[5], tonumber(ARGV[6]), ARGV[7]

-- Lua's own way to write a number loses digits from 10^14 on.
local function text(number) return string.format('%.0f', number) end

local meta = redis.call('HMGET', META, 'log', 'n', 'run', 'settle', 'at', 'clock', 'size',
                        'term', 'kept', 'leap', 'seal', 'tip')
local log, n, settle = meta[1], tonumber(meta[2] or 0), tonumber(meta[4] or 0)
local term = math.max(tonumber(ARGV[2]), tonumber(meta[8] or 0))
local kept = tonumber(meta[9] or 0)
local leap = meta[10] or '0'
local seal = meta[11] or ''
local last = nil  -- the tip of the last record, once it is known

-- The clock of the fleet: it goes as the server's does, but never backward, and never forward by
-- more than one stride at once. So no step of the server's clock, and no failover to a server with
-- another one, ends a membership before its time. Members call more often than once a stride.
local parts = redis.call('TIME')
local at = parts[1] * 1000 + math.floor(parts[2] / 1000)
local clock = tonumber(meta[6] or 0)
clock = clock + math.max(0, math.min(stride, at - tonumber(meta[5] or at)))

-- Which server is this? Some hosts refuse INFO to scripts: then "", and a server that lost the end
-- of the log is known by the callers who are ahead of it.
local run = ''
local info = redis.pcall('INFO', 'server')
if type(info) == 'string' then run = string.match(info, 'run_id:(%w+)') or '' end

local news = false

-- Each tip is a hash over all records before: it proves them all, whatever is put in their places
-- later.
local function add(position, nonce, record)
  if not last then
    local newest = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
    last = (newest and newest[1] == text(n) .. '-0' and newest[2][4]) or meta[12] or ''
  end
  last = redis.sha1hex(last .. nonce .. record)
  redis.call('XADD', LOG, 'MAXLEN', ARGV[4], text(position) .. '-0',
             'p', text(n), 't', last, 'r', record, 'o', nonce)
  n = position
  news = true
end

-- A record at the caller's position that is another than the caller has applied, or follows others
-- than those: two histories were grown from one (a backup was restored, two primaries wrote, somebody
-- wrote into it). Neither can be trusted. Nor can one that the caller knows to be an older log.
if log and mine == log and tip ~= '' and applied <= n then
  local id = text(applied) .. '-0'
  local there = redis.call('XRANGE', LOG, id, id)[1]
  if there and there[2][4] ~= tip then log = false end
end
if log and log == ARGV[12] then log = false end

if not log then
  -- New, or emptied, or evicted. What is left of an older log must not be taken for this one's.
  redis.call('DEL', LOG, META, MEMBERS, ACKS, AGAIN)
  log, n, settle, kept, leap, news = fresh, 0, clock + term, 0, '0', true
  seal, last = ARGV[11], ''
elseif meta[3] ~= run or (mine == log and applied > n) then
  -- The leap. The end of the log may have been lost with the other server, or before the restart:
  -- go on where no position was ever given out. That is above all that is known here, and above
  -- what the time suggests and somewhat at random: so also servers that leap from one point, and do
  -- not know of each other, do not arrive at the same one, and the later leap is the higher one.
  -- (4096 positions for each ms since 2020: that is below 2^53, where numbers end, until 2089.)
  local top = n
  if mine == log and applied > n then top = applied end
  add(math.max(math.floor(top / 4096) + 1, at - 1577836800000) * 4096
      + string.byte(fresh, 8) * 16, string.sub(fresh, 9, 16), '')
  leap = text(n)
  settle = clock + term
elseif redis.call('ZCARD', MEMBERS) ~= tonumber(meta[7] or 0) then
  -- Members are missing (evicted): purges wait until none of them can be trusted any more.
  settle = clock + term
end
settle = math.min(settle, clock + term)

local same = mine == log

-- At most so many at once; the rest is not counted either, and goes next time.
local dead = redis.call('ZRANGEBYSCORE', MEMBERS, '-inf', text(clock), 'LIMIT', 0, 100)
for _, one in ipairs(dead) do
  redis.call('ZREM', MEMBERS, one)
  redis.call('HDEL', ACKS, one)
end

local function acknowledge()
  if same and instance ~= '' and redis.call('ZSCORE', MEMBERS, instance) then
    redis.call('HSET', ACKS, instance, text(applied))
    return 1
  end
  return 0
end

local function save()
  local hourly = math.abs(at - kept) > 3600000
  -- The longest term of the instances of the last hour, in case it was shortened.
  if hourly then term = tonumber(ARGV[2]) end
  redis.call('HSET', META, 'log', log, 'n', text(n), 'run', run, 'settle', text(settle),
             'at', text(at), 'clock', text(clock), 'size', redis.call('ZCARD', MEMBERS),
             'term', text(term), 'leap', leap, 'seal', seal)
  if last then redis.call('HSET', META, 'tip', last) end
  -- A namespace that is not used any more vanishes after a week.
  if news or hourly then
    redis.call('HSET', META, 'kept', text(at))
    for i = 1, 5 do redis.call('EXPIRE', KEYS[i], 604800) end
  end
  -- Tell all instances that there is something to read. (pcall: a user who may not publish can
  -- still use the log.)
  if news then redis.pcall('PUBLISH', LOG, log .. text(n)) end
end
"""

# The records after the caller's position. An instance becomes a member in the same step in which it
# gets all there is: so purges wait for it from the moment on from which it may be trusted.
_READ: Final = """
local limit = tonumber(ARGV[10])
local start = 0
if same then start = applied end
local records = redis.call('XRANGE', LOG, text(start + 1) .. '-0', '+', 'COUNT', limit)
local complete, member = 0, 0
if #records < limit then
  complete = 1
  if instance ~= '' and ARGV[9] == '1' then
    if redis.call('ZADD', MEMBERS, text(clock + tonumber(ARGV[2])), instance) == 1 then kept = 0 end
    member = 1
  end
end
acknowledge()
save()
"""

# -> incarnation, last position, all there is?, a member now?, records, position appended (0: none),
#    the tip there, position of the last leap (0: none), seal
SYNC: Final = Script.of(
    "sync",
    _PROLOGUE + _READ + "return {log, text(n), complete, member, records, '0', '', leap, seal}",
)

# ARGV from 13 on: nonce, what it is a repetition of (or ""), record; and so on. Nothing is appended
# if the caller's incarnation is another one: a record is made for the log it goes to.
# As SYNC; then the position of the last of these records, and its tip.
APPEND: Final = Script.of(
    "append",
    _PROLOGUE
    + """
local place, mark = 0, ''
if same then
  for i = 13, #ARGV, 3 do
    local was, there = false, nil
    if ARGV[i + 1] ~= '' then was = redis.call('HGET', AGAIN, ARGV[i + 1]) end
    if was then
      -- Another instance has repeated it already, if it is there.
      there = redis.call('XRANGE', LOG, was .. '-0', was .. '-0')[1]
      if not (there and there[2][6] == ARGV[i + 2]) then was = false end
    end
    if was then
      if tonumber(was) > place then place, mark = tonumber(was), there[2][4] end
    else
      add(n + 1, ARGV[i], ARGV[i + 2])
      place, mark = n, last
      if ARGV[i + 1] ~= '' then redis.call('HSET', AGAIN, ARGV[i + 1], text(n)) end
    end
  end
end
"""
    + _READ
    + "return {log, text(n), complete, member, records, text(place), mark, leap, seal}",
)

# ARGV 13 a position, 14 the tip there.
# -> incarnation, is the record there?, members, of which have applied it, ms until purges need not
#    wait for members that are unknown here, is the caller one?
STATUS: Final = Script.of(
    "status",
    _PROLOGUE
    + """
local position = tonumber(ARGV[13])
local known = acknowledge()
local id = text(position) .. '-0'
local there = redis.call('XRANGE', LOG, id, id)[1]
local found = 0
if same and there and there[2][4] == ARGV[14] then found = 1 end
local acks, members, done = {}, 0, 0
local flat = redis.call('HGETALL', ACKS)
for i = 1, #flat, 2 do acks[flat[i]] = tonumber(flat[i + 1]) end
for _, one in ipairs(redis.call('ZRANGEBYSCORE', MEMBERS, '(' .. text(clock), '+inf')) do
  members = members + 1
  if acks[one] and acks[one] >= position then done = done + 1 end
end
save()
return {log, found, members, done, text(math.max(0, settle - clock)), known}
""",
)

LEAVE: Final = Script.of(
    "leave",
    _PROLOGUE
    + """
redis.call('ZREM', MEMBERS, instance)
redis.call('HDEL', ACKS, instance)
save()
return 1
""",
)

# Somebody else has written into the log's keys, so that no script can read them: take away the log,
# as if Redis had been emptied. KEYS as above. -> 1 if that was so
MEND: Final = Script.of(
    "mend",
    """
local garbled = false
for i, kind in ipairs({'stream', 'hash', 'zset', 'hash', 'hash'}) do
  local there = redis.call('TYPE', KEYS[i]).ok
  if there ~= 'none' and there ~= kind then garbled = true end
end
if not garbled then
  local numbers = redis.call('HMGET', KEYS[2], 'n', 'settle', 'at', 'clock', 'size', 'term', 'kept', 'leap')
  for _, one in ipairs(numbers) do
    if one and not tonumber(one) then garbled = true end
  end
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if newest and #newest[2] < 6 then garbled = true end
end
if not garbled then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 1
""",
)
