-- Charges RATE limits: many independent items in one call, each all or nothing over its limits.
--
-- The window is the coalesced sliding log of core/rate_window.py, which says what it promises: never more than `amount`
-- units in any stretch of time as long as the window; a unit comes back at most a twentieth of a window late.
-- The clock is this store's own. Numbers are integers below 2^53, exact in Lua's doubles.
--
-- KEYS[i]  where the logs of one scope (a key, or an owner) are kept: all of its RATE limits in one value. An item is
--          one scope, or a run of several scopes that are charged together. All KEYS of a call share a slot.
-- ARGV[i]  what is asked of KEYS[i]: number of limits, whether the next scope belongs to the same item, whether to
--          consume; then for each limit its name, amount, window in microseconds, units to charge, and whether it is
--          a shadow limit, which counts and never denies.
--
-- Answers a list of integers for each item: 1 if admitted else 0; microseconds until the same charge fits, or -1; then
-- for each limit the units used, the time in microseconds at which all are given back, or -1, and 1 if the charge does
-- not fit else 0.
--
-- Value: for each limit its name, window, units counted, then the newest entry (first, last, count) and the older ones
-- (last, count), oldest first. Limits that are not asked for are kept until they count nothing: another server may know
-- a definition that this one does not know yet.

local GRANULES = 20
local COUNT_MAX = 9007199254740991
local LOG = '<Bc0dddddHc0'
local OLDER = '<dd'
local OLDER_SIZE = 16

local unpack, pack = struct.unpack, struct.pack
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

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

-- The store's clock stepped back: what it counted in its future is taken as charged now, and kept so even if nothing is
-- charged, or it would begin to count anew with every look.
local function step_back(log, now)
  while #log.older > 0 do
    local last, count = unpack(OLDER, log.older, #log.older - OLDER_SIZE + 1)
    if last <= now then
      break
    end
    log.count = log.count + count
    log.older = log.older:sub(1, -OLDER_SIZE - 1)
  end
  log.first, log.last = now, now
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

local function add(log, units, now)
  units = min(units, COUNT_MAX - log.used)
  if units <= 0 then
    return
  end
  log.used = log.used + units
  if log.count > 0 and now - log.first < floor(log.window / GRANULES) then
    log.count = log.count + units
  else
    if log.count > 0 then
      log.older = log.older .. pack(OLDER, log.last, log.count)
    end
    log.first, log.count = now, units
  end
  log.last = now
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

-- What is asked of scope `i`, added to `demands`; gives whether to consume.
local function demand(i, now, demands)
  local scope = open(KEYS[i])
  local limits, _, consume, at = unpack('<BBB', ARGV[i])
  for _ = 1, limits do
    local name, amount, window, units, shadow
    name, amount, window, units, shadow, at = unpack('<Bc0dddB', ARGV[i], at)
    local log = find(scope.logs, name)
    log.window = window
    if log.last > now then
      step_back(log, now)
      scope.dirty = true
    end
    advance(log, now)
    local exceeded = units > 0 and log.used + units > amount
    local retry = 0
    if exceeded and shadow == 0 then
      retry = units > amount and math.huge or wait(log, log.used + units - amount, now)
    end
    demands[#demands + 1] = {scope = scope, log = log, units = units, exceeded = exceeded, retry = retry}
  end
  return consume == 1
end

-- Charges the item made of the scopes `from` to `to`.
local function charge(from, to, now)
  local demands, consume, retry = {}, false, 0
  for i = from, to do
    consume = demand(i, now, demands)
  end
  for _, asked in ipairs(demands) do
    retry = max(retry, asked.retry)
  end
  local answer = {retry == 0 and 1 or 0, retry > 0 and retry < math.huge and retry or -1}
  for _, asked in ipairs(demands) do
    local log = asked.log
    if retry == 0 and consume and asked.units > 0 then
      add(log, asked.units, now)
      asked.scope.dirty = true
    end
    answer[#answer + 1] = log.used
    answer[#answer + 1] = log.count > 0 and log.last + log.window or -1
    answer[#answer + 1] = asked.exceeded and 1 or 0
  end
  return answer
end

local now, answers, from = now_us(), {}, 1
for i = 1, #KEYS do
  local _, continues = unpack('<BB', ARGV[i])
  if continues == 0 then
    answers[#answers + 1] = charge(from, i, now)
    from = i + 1
  end
end
for key, scope in pairs(scopes) do
  if scope.dirty then
    save(key, scope.logs, now)
  end
end
return answers
