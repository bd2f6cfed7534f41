-- Charges limits: many independent items in one call, each all or nothing over its limits.
--
-- An item may stand for many charges that are the same. They come out as if they were made one after the other: as many
-- as fit are made, in one step; the others, whom nothing but those keeps out, are all told the same. Where the limits
-- stand is told as it is after all of them.
--
-- RATE limits are held by logs, kept here alone. The window is the coalesced sliding log of core/rate_window.py, which
-- says what it promises: never more than `amount` units in any stretch of time as long as the window; a unit comes back
-- at most a twentieth of a window late.
-- QUOTA and SPEND limits are spent from pools: units that the ledger in Postgres has debited already. A pool says what
-- it holds and what the ledger stood at, so a charge that does not fit the limit is told from one for which the pool
-- must be refilled first. A pool of another epoch is no pool: the store was restarted or replaced since.
-- Usage of a key is counted in the same step that charges it, once however often a charge is asked for; see
-- usage/hashes.py.
-- The clock is this store's own. Numbers are integers below 2^53, exact in Lua's doubles.
--
-- KEYS[i]  what part i is about. An item is a run of parts. All KEYS of a call share a slot.
-- ARGV[i]  kind, whether the next part belongs to the same item, whether to consume; then by kind:
--   'R'  logs of one scope (a key, or an owner), all of its RATE limits in one value: number of limits, then for each
--        its name, amount, window in microseconds, units to charge, and whether it is a shadow limit, which counts and
--        never denies.
--   'P'  a pool: amount, units, shadow, and from when to when its window lasts.
--   'K'  for an answer that is kept, the charge is made for verifications to come as well: how many times at most, and
--        with how much lead at most.
--   'O'  record of a charge that is made once, however often it is asked for: milliseconds to keep it. With several of
--        them the item stands for as many charges, each with its own record; a record may be among them twice.
--   'N'  how many charges without a record the item stands for.
--   'U'  usage, in the hash of its minute: key_id, number of counters, then for each its name and what is added.
--   'G'  a grant to a pool, an item of its own: generation, whether it makes the pool, units, what the ledger has
--        debited, revision of the ledger, when the window ends, when the grant expires.
--
-- A part 'K' is in no item of several charges.
--
-- Answers the time, then over and over how many charges, in their order, are told the same, and what. That is a list of
-- integers: the verdict; microseconds until the same charge fits, or -1; for each RATE limit the units used, when all are
-- given back, or -1, and 1 if the charge does not fit else 0; for each pool the units used or -1, 1 if the charge does not
-- fit else 0, generation or -1, units received, units left; after a part 'K' how many times the charge was made or, where
-- pools lack units, is to be made, and until when those are used.

local EPOCH = '@EPOCH@'

local DENIED, ADMITTED, LACKING, MOVED, REPLAYED = 0, 1, 2, 3, 4

local GRANULES = 20
-- How long after their charge units may be used: at most, and how long it is worth while.
local LEAD_MAX, LEAD_MIN = 1000000, 10000
-- Of what a limit has left, one charge takes only this part for verifications still to come.
local PART = 100
local COUNT_MAX = 9007199254740991
local LOG = '<Bc0dddddHc0'
local OLDER = '<dd'
local OLDER_SIZE = 16
local POOL = '<Bc0dddddd'
-- How long a denial may rely on what the ledger stood at when the pool was last refilled.
local FRESH = 1000000
-- Decisions and units that are counted of one key in one minute, and for how many seconds, if nobody comes for them.
local COUNTERS_MAX = 33
local USAGE_KEPT = 86400

local unpack, pack = struct.unpack, struct.pack
local floor, ceil, max, min, format = math.floor, math.ceil, math.max, math.min, string.format

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

---- Logs. Value: for each limit its name, window, units counted, then the newest entry (first, last, count) and the
---- older ones (last, count), oldest first. Limits that are not asked for are kept until they count nothing: another
---- server may know a definition that this one does not know yet.

local function load(key)
  local logs = {}
  local value, at = redis.call('GET', key), 1
  while value and at <= #value do
    local log = {}
    log.name, log.window, log.used, log.first, log.last, log.count, log.older, at = unpack(LOG, value, at)
    logs[#logs + 1] = log
    logs[log.name] = log
  end
  return logs
end

-- The logs of each scope, by name and in the order in which they are kept. A call reads a scope once and writes it once.
local scopes = {}

local function open(key)
  local scope = scopes[key]
  if not scope then
    -- Whatever else lies under the key counts as nothing, and is replaced: it must not fail the items of others.
    local ours, logs = pcall(load, key)
    scope = {logs = ours and logs or {}, dirty = false}
    scopes[key] = scope
  end
  return scope
end

local function find(logs, name)
  local log = logs[name]
  if not log then
    log = {name = name, used = 0, first = 0, last = 0, count = 0, older = ''}
    logs[#logs + 1] = log
    logs[name] = log
  end
  return log
end

local function save(key, logs, now)
  local parts, lifetime = {}, 0
  for _, log in ipairs(logs) do
    local rest = log.last + log.window - now
    if rest > 0 then
      lifetime = max(lifetime, rest)
      parts[#parts + 1] =
        pack(LOG, #log.name, log.name, log.window, log.used, log.first, log.last, log.count, #log.older, log.older)
    end
  end
  redis.call('SET', key, table.concat(parts), 'PX', ceil(lifetime / 1000))
end

-- The store's clock stepped back: what it counted further in its future than units may be charged ahead is taken as
-- charged as far ahead as they may, and kept so even if nothing is charged, or it would begin to count anew with every
-- look.
local function step_back(log, latest)
  while #log.older > 0 do
    local last, count = unpack(OLDER, log.older, #log.older - OLDER_SIZE + 1)
    if last <= latest then
      break
    end
    log.count = log.count + count
    log.older = log.older:sub(1, -OLDER_SIZE - 1)
  end
  log.first, log.last = latest, latest
end

-- Gives back what has left the window.
local function advance(log, now)
  local at = 1
  while at <= #log.older do
    local last, count = unpack(OLDER, log.older, at)
    if last + log.window > now then
      break
    end
    log.used = log.used - count
    at = at + OLDER_SIZE
  end
  if at > 1 then
    log.older = log.older:sub(at)
  end
  if log.count > 0 and log.last + log.window <= now then
    log.used, log.count = 0, 0
  end
end

local function add(log, units, now, lead)
  units = min(units, COUNT_MAX - log.used)
  if units <= 0 then
    return
  end
  log.used = log.used + units
  local at = log.count > 0 and max(now + lead, log.last) or now + lead
  if log.count > 0 and at - log.first < floor(log.window / GRANULES) then
    log.count = log.count + units
  else
    if log.count > 0 then
      log.older = log.older .. pack(OLDER, log.last, log.count)
    end
    log.first, log.count = at, units
  end
  log.last = at
end

-- How long until `surplus` of the units counted are given back.
local function wait(log, surplus, now)
  for at = 1, #log.older, OLDER_SIZE do
    local last, count = unpack(OLDER, log.older, at)
    surplus = surplus - count
    if surplus <= 0 then
      return last + log.window - now
    end
  end
  return log.last + log.window - now
end

---- Pools. Value: epoch, generation (which pool of its account this is), units received since it was made, units left,
---- what the ledger had debited at which revision, and when that was heard. A call reads a pool once and writes it once.

local pools = {}

local function read_pool(key)
  local value = redis.call('GET', key)
  local pool = {}
  pool.epoch, pool.generation, pool.received, pool.left, pool.debited, pool.revision, pool.heard = unpack(POOL, value)
  return pool
end

local function open_pool(key)
  local kept = pools[key]
  if not kept then
    local ours, pool = pcall(read_pool, key)
    kept = {pool = ours and pool or nil, dirty = false}
    pools[key] = kept
  end
  return kept
end

local function save_pool(key, pool, ends)
  local value = pack(
    POOL, #pool.epoch, pool.epoch, pool.generation, pool.received, pool.left, pool.debited, pool.revision, pool.heard
  )
  redis.call('SET', key, value, 'PXAT', ceil(ends / 1000))
end

-- Takes a block into its pool. One that is late, or for a pool that is gone, is void: the reconciler gives it back.
local function grant(i, now)
  local kept = open_pool(KEYS[i])
  local generation, makes, units, debited, revision, ends, expires = unpack('<dBddddd', ARGV[i], 4)
  if now > expires or now >= ends then
    return {0}
  end
  local pool = kept.pool
  if makes == 1 and (not pool or pool.generation < generation) then
    pool = {epoch = EPOCH, generation = generation, received = 0, left = 0, debited = 0, revision = -1, heard = now}
    kept.pool = pool
  end
  if not pool or pool.epoch ~= EPOCH or pool.generation ~= generation then
    return {0}
  end
  pool.received = pool.received + units
  pool.left = pool.left + units
  if revision > pool.revision then
    pool.debited, pool.revision, pool.heard = debited, revision, now
  end
  kept.dirty, kept.ends = true, ends
  return {1}
end

---- Usage. Fields: for each counter "key_id/name"; for each key "key_id", the number of its counters; and "", when the
---- hash was made. A call adds to a field once.

local counts = {}

local function add_usage(key, field, amount, now)
  -- Fails if something else lies under the key, or beyond 2^63, where nothing more is counted.
  local total = redis.pcall('HINCRBY', key, field, format('%.0f', amount))
  if total ~= amount then
    return
  end
  -- The counter is new.
  if redis.call('HINCRBY', key, field:match('^[^/]*'), 1) > COUNTERS_MAX then
    redis.call('HDEL', key, field)
  end
  if redis.call('HSETNX', key, '', format('%.0f', now)) == 1 then
    redis.call('EXPIRE', key, USAGE_KEPT)
  end
end

local function count(i, times, now)
  local key = KEYS[i]
  local fields = counts[key] or {}
  counts[key] = fields
  local key_id, counters, at = unpack('<Bc0B', ARGV[i], 4)
  for _ = 1, counters do
    local name, amount
    name, amount, at = unpack('<Bc0d', ARGV[i], at)
    local field = key_id .. '/' .. name
    local before = fields[field] or 0
    for _ = 1, times do
      if before + amount > COUNT_MAX then
        add_usage(key, field, before, now)
        before = 0
      end
      before = before + amount
    end
    fields[field] = before
  end
end

---- Charging.

-- What is asked of the logs of one scope.
local function demand_rates(i, now, item)
  local scope = open(KEYS[i])
  local limits, at = unpack('<B', ARGV[i], 4)
  for _ = 1, limits do
    local name, amount, window, units, shadow
    name, amount, window, units, shadow, at = unpack('<Bc0dddB', ARGV[i], at)
    local log = find(scope.logs, name)
    log.window = window
    if log.last > now + LEAD_MAX then
      step_back(log, now + LEAD_MAX)
      scope.dirty = true
    end
    advance(log, now)
    local exceeded = units > 0 and log.used + units > amount
    local retry = 0
    if exceeded and shadow == 0 then
      retry = units > amount and math.huge or wait(log, log.used + units - amount, now)
    end
    item.retry = max(item.retry, retry)
    item.rates[#item.rates + 1] = {
      scope = scope, log = log, amount = amount, units = units, shadow = shadow == 1, exceeded = exceeded
    }
  end
end

-- What is asked of one pool.
local function demand_pool(i, now, item)
  local kept = open_pool(KEYS[i])
  local amount, units, shadow, starts, ends = unpack('<ddBdd', ARGV[i], 4)
  local pool = kept.pool
  local asked = {kept = kept, amount = amount, units = units, shadow = shadow == 1, ends = ends, exceeded = false}
  item.pools[#item.pools + 1] = asked
  item.moved = item.moved or now < starts or now >= ends
  if not pool or pool.epoch ~= EPOCH then
    item.unknown = true
    return
  end
  asked.pool = pool
  asked.exceeded = units > 0 and pool.debited - pool.left + units > amount
  if asked.exceeded and shadow == 0 then
    local age = now - pool.heard
    item.unknown = item.unknown or age > FRESH or age < 0
    item.retry = max(item.retry, units > amount and math.huge or ends - now)
  elseif units > pool.left then
    item.short = true
  end
end

local function demand(i, now, item)
  local kind = ARGV[i]:sub(1, 1)
  item.consume = ARGV[i]:byte(3) == 1
  if kind == 'R' then
    demand_rates(i, now, item)
  elseif kind == 'P' then
    demand_pool(i, now, item)
  elseif kind == 'K' then
    item.times_max, item.lead = unpack('<dd', ARGV[i], 4)
  elseif kind == 'O' then
    item.records = item.records or {}
    item.records[#item.records + 1] = KEYS[i]
    item.keep = unpack('<d', ARGV[i], 4)
  elseif kind == 'N' then
    item.number = unpack('<d', ARGV[i], 4)
  elseif kind == 'U' then
    item.usage = i
  end
end

-- What the parts `from` to `to` ask, and how it fits as things are.
local function look(from, to, now)
  local item = {rates = {}, pools = {}, number = 1, retry = 0, times = 1, lead = 0, used_until = now}
  for i = from, to do
    demand(i, now, item)
  end
  return item
end

local function verdict(item)
  if item.moved then
    return MOVED
  elseif item.unknown then
    return LACKING
  elseif item.retry > 0 then
    return DENIED
  elseif item.short and item.consume then
    return LACKING
  end
  return ADMITTED
end

-- How often an answer that is kept is charged at once: what fits into a part of what each limit has left, and into what
-- pools hold; the units of a window are used before it ends. False if a pool of a shadow limit, which bounds nothing,
-- must be refilled first.
local function multiply(item, now)
  local times, lead = item.times_max, item.lead
  for _, asked in ipairs(item.rates) do
    if asked.units > 0 and not asked.shadow then
      times = min(times, floor((asked.amount - asked.log.used) / (PART * asked.units)))
    end
  end
  for _, asked in ipairs(item.pools) do
    if asked.units > 0 then
      lead = min(lead, asked.ends - now)
      if not asked.shadow then
        local left = asked.amount - (asked.pool.debited - asked.pool.left)
        times = min(times, floor(left / (PART * asked.units)), floor(asked.pool.left / asked.units))
      end
    end
  end
  if times > 1 and lead >= LEAD_MIN then
    item.times, item.lead = times, lead
  else
    item.times, item.lead = 1, 0
  end
  item.used_until = now + item.lead
  for _, asked in ipairs(item.pools) do
    if asked.units * item.times > asked.pool.left then
      return false
    end
  end
  return true
end

-- How many of so many charges that are the same fit one after the other, if the first does. A shadow limit has room for
-- all of them, as far as its pool has the units.
local function room(item, number)
  for _, asked in ipairs(item.rates) do
    if asked.units > 0 and not asked.shadow then
      number = min(number, floor((asked.amount - asked.log.used) / asked.units))
    end
  end
  for _, asked in ipairs(item.pools) do
    if asked.units > 0 then
      number = min(number, floor(asked.pool.left / asked.units))
      if not asked.shadow then
        number = min(number, floor((asked.amount - (asked.pool.debited - asked.pool.left)) / asked.units))
      end
    end
  end
  return max(number, 1)
end

-- Makes the charge `item.times` times. Of charges that are the same a shadow limit tells whether the last one fitted.
local function consume(item, now)
  for _, asked in ipairs(item.rates) do
    if asked.units > 0 then
      add(asked.log, asked.units * item.times, now, item.lead)
      asked.scope.dirty = true
      asked.exceeded = asked.exceeded or item.lead == 0 and asked.log.used > asked.amount
    end
  end
  for _, asked in ipairs(item.pools) do
    if asked.units > 0 then
      asked.pool.left = asked.pool.left - asked.units * item.times
      asked.kept.dirty, asked.kept.ends = true, asked.ends
      asked.exceeded = asked.exceeded or item.lead == 0 and asked.pool.debited - asked.pool.left > asked.amount
    end
  end
  -- Usage of an answer that is kept is counted when that ends.
  if item.usage and item.lead == 0 then
    count(item.usage, item.times, now)
    item.counted = true
  end
end

local function answer(item, outcome)
  local figures, at = {outcome, item.retry > 0 and item.retry < math.huge and item.retry or -1}, 3
  for _, asked in ipairs(item.rates) do
    local log = asked.log
    figures[at] = log.used
    figures[at + 1] = log.count > 0 and log.last + log.window or -1
    figures[at + 2] = asked.exceeded and 1 or 0
    at = at + 3
  end
  for _, asked in ipairs(item.pools) do
    local pool = asked.pool
    figures[at] = pool and pool.debited - pool.left or -1
    figures[at + 1] = asked.exceeded and 1 or 0
    figures[at + 2] = pool and pool.generation or -1
    figures[at + 3] = pool and pool.received or 0
    figures[at + 4] = pool and pool.left or 0
    at = at + 5
  end
  if item.times_max then
    figures[at], figures[at + 1] = item.times, item.used_until
  end
  return figures
end

-- The answer that the same charge was given before. Should its limits have changed since, they are told as they are.
local function replay(item, record)
  local value = item.consume and redis.call('GET', record)
  if not value then
    return nil
  end
  local figures = #value > 1 and cmsgpack.unpack(value) or {}
  if #figures ~= 2 + 3 * #item.rates + 5 * #item.pools + (item.times_max and 2 or 0) then
    figures = answer(item, REPLAYED)
    figures[2] = -1
  end
  figures[1] = REPLAYED
  return figures
end

-- Makes the charge so many times, or as often as it fits: gives how many are told the same, and what.
local function make(item, number, now)
  local outcome = verdict(item)
  if outcome == ADMITTED and item.times_max and not multiply(item, now) then
    outcome = LACKING
  end
  if outcome == ADMITTED and item.consume then
    if number > 1 then
      number = room(item, number)
      item.times = number
    end
    consume(item, now)
  end
  return number, answer(item, outcome)
end

local answers = {}

local function tell(number, figures)
  if answers[#answers] == figures then
    answers[#answers - 1] = answers[#answers - 1] + number
  else
    answers[#answers + 1] = number
    answers[#answers + 1] = figures
  end
end

-- Makes the charges of an item that has records, each once.
local function charge_once(item, from, to, now)
  local records, told, new = item.records, {}, 0
  for _, record in ipairs(records) do
    if told[record] == nil then
      told[record] = replay(item, record) or false
      new = told[record] and new or new + 1
    end
  end
  local made, figures, packed, again = 0
  for _, record in ipairs(records) do
    if told[record] then
      tell(1, told[record])
    else
      if made == 0 then
        made, figures = make(item, new, now)
        new, packed, again = new - made, nil, figures
        if figures[1] == ADMITTED and item.consume then
          packed = cmsgpack.pack(figures, item.counted == true)
          again = cmsgpack.unpack(packed)
          again[1] = REPLAYED
        end
        if new > 0 then
          item = look(from, to, now)
        end
      end
      made = made - 1
      tell(1, figures)
      told[record] = again
      if packed then
        redis.call('SET', record, packed, 'PX', item.keep)
      end
    end
  end
end

-- Makes the charges of the item made of the parts `from` to `to`.
local function charge(from, to, now)
  local item = look(from, to, now)
  if item.records then
    return charge_once(item, from, to, now)
  end
  local left = item.number
  while left > 0 do
    local made, figures = make(item, left, now)
    tell(made, figures)
    left = left - made
    item = left > 0 and look(from, to, now)
  end
end

local now, from = now_us(), 1
answers[1] = now
for i = 1, #KEYS do
  if ARGV[i]:byte(2) == 0 then
    if ARGV[i]:sub(1, 1) == 'G' then
      tell(1, grant(i, now))
    else
      charge(from, i, now)
    end
    from = i + 1
  end
end
for key, scope in pairs(scopes) do
  if scope.dirty then
    save(key, scope.logs, now)
  end
end
for key, kept in pairs(pools) do
  if kept.dirty then
    save_pool(key, kept.pool, kept.ends)
  end
end
for key, fields in pairs(counts) do
  for field, amount in pairs(fields) do
    add_usage(key, field, amount, now)
  end
end
return answers
