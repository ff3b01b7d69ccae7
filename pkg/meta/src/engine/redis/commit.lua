-- Applies a transaction if all it relies on still holds. Answers {1, answers, learned}, or
-- {0, what stands under each guard} and changes nothing. Guards come first, so that nothing is
-- changed before all are checked.
local stamps, lane, sequence, secs = keys[1], take(), take(), take()

-- 8 bytes that both records may lack.
local function parent_of(b) return #b >= 71 and string.sub(b, 64, 71) or string.rep('\0', 8) end
local function acls_of(b) return #b >= 79 and string.sub(b, 72, 79) or string.rep('\0', 8) end
local function tier_of(b)
  if #b >= 79 then return #b >= 80 and string.sub(b, 80, 80) or '\0' end
  return #b >= 72 and string.sub(b, 72, 72) or '\0'
end

-- The fields of a record that a guard relies on, one after the other.
local function fields(b, mask)
  local out = {}
  local function has(bit) return mask % (2 * bit) >= bit end
  if has(1) then out[#out + 1] = string.char(math.floor(string.byte(b, 2) / 16)) end
  if has(2) then
    out[#out + 1] = string.char(string.byte(b, 2) % 16) .. string.sub(b, 3, 11) .. acls_of(b)
  end
  if has(4) then out[#out + 1] = string.sub(b, 1, 1) end
  if has(8) then out[#out + 1] = parent_of(b) end
  if has(16) then out[#out + 1] = string.sub(b, 52, 59) end
  if has(32) then out[#out + 1] = string.sub(b, 48, 51) end
  if has(64) then out[#out + 1] = string.sub(b, 12, 47) end
  if has(128) then out[#out + 1] = tier_of(b) end
  return table.concat(out)
end

local function text(v) return type(v) == 'number' and string.format('%.0f', v) or v end
local function is_true(v) return v and v ~= 0 end

-- 8 bytes, signed, as a number: exact below 2^53, and only ever compared with a limit.
local function number(b, from)
  local hi, lo = 0, 0
  for i = from, from + 3 do hi, lo = hi * 256 + string.byte(b, i), lo * 256 + string.byte(b, i + 4) end
  if hi >= 2147483648 then hi = hi - 4294967296 end
  return hi * 4294967296 + lo
end

local holds = {}
-- Attributes: a mask and the fields, or nothing for no record.
holds['attr'] = function(seen, now)
  if seen[1] == '-' then return not now[1] end
  return now[1] and fields(now[1], tonumber(seen[1])) == seen[2]
end
-- Each reply: - nothing, + exactly this, = this or nothing for 0, ~ limits or nothing for none.
holds['same'] = function(seen, now)
  for i, expected in ipairs(seen) do
    local how, value, found = string.sub(expected, 1, 1), string.sub(expected, 2), text(now[i])
    if how == '-' and found then return false end
    if how == '+' and found ~= value then return false end
    if how == '=' and (found or '0') ~= value then return false end
    if how == '~' and (found or string.rep('\255', 16)) ~= value then return false end
  end
  return true
end
holds['flag'] = function(seen, now) return (seen[1] == '1') == (is_true(now[1]) and true or false) end
holds['room'] = function(seen, now)
  return (tonumber(now[1] or '0') + tonumber(seen[1]) <= tonumber(seen[2])) == (seen[3] == '1')
end
-- Limits, used space, used inodes. A record is there if its used inodes are.
holds['quota'] = function(seen, now)
  local fits = true
  if now[3] and now[1] and #now[1] >= 16 then
    local function over(add, used, limit) return add > 0 and limit > 0 and used + add > limit end
    fits = not over(tonumber(seen[1]), tonumber(now[2] or '0'), number(now[1], 1))
      and not over(tonumber(seen[2]), tonumber(now[3]), number(now[1], 9))
  end
  return fits == (seen[3] == '1')
end
holds['list'] = function(seen, now) return table.concat(now[1]) == seen[1] end
-- A hash, in any order. With counts, those of 0 and less do not count.
local function hash(seen, now, counts)
  local expected, n = {}, 0
  for i = 1, #seen, 2 do expected[seen[i]], n = seen[i + 1], n + 1 end
  for i = 1, #now[1], 2 do
    if not counts or tonumber(now[1][i + 1]) > 0 then
      if expected[now[1][i]] ~= now[1][i + 1] then return false end
      n = n - 1
    end
  end
  return n == 0
end
holds['hash'] = function(seen, now) return hash(seen, now, false) end
holds['counts'] = function(seen, now) return hash(seen, now, true) end

local function replace(b, from, bytes) return string.sub(b, 1, from - 1) .. bytes .. string.sub(b, from + #bytes) end

-- Unsigned 32-bit fields add up; numbers stay below 2^33.
local function add32(b, from, delta)
  local a1, a2, a3, a4 = string.byte(b, from, from + 3)
  local n = ((a1 * 256 + a2) * 256 + a3) * 256 + a4 + delta
  if n < 0 then n = 0 end
  if n > 4294967295 then n = 4294967295 end
  local bytes = string.char(
    math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
  return replace(b, from, bytes)
end

-- Is one 8-byte number less than another? Byte by byte: < on Lua strings depends on the locale.
local function less(a, b)
  for i = 1, 8 do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return false
end

local function with_acls(b)
  if #b >= 79 then return b end
  return string.sub(b, 1, 71) .. string.rep('\0', 8) .. string.sub(b, 72)
end

-- Splices fields into an attribute record; what is behind the known ones stays.
special['!attr'] = function(key, a)
  local b = redis.call('GET', key)
  if not b then return false end
  if #b < 71 then b = string.sub(b, 1, 63) .. string.rep('\0', 8) end
  for i = 1, #a, 2 do
    local what, v = a[i], a[i + 1]
    if what == 'mode' then
      local keep = math.floor(string.byte(b, 2) / 16) * 16
      b = replace(b, 2, string.char(keep + string.byte(v, 1)) .. string.sub(v, 2, 2))
    elseif what == 'nlink' then
      b = add32(b, 48, tonumber(v))
    elseif what == 'least' then
      if less(string.sub(b, 52, 59), v) then b = replace(b, 52, v) end
    elseif what == 'access' or what == 'default' then
      if #b >= 79 or v ~= '\0\0\0\0' then b = replace(with_acls(b), what == 'access' and 72 or 76, v) end
    elseif what == 'tier' then
      local place = #b >= 79 and 80 or 72
      if #b >= place or v ~= '\0' then b = replace(b, place, v) end
    else
      b = replace(b, tonumber(what), v)
    end
  end
  redis.call('SET', key, b)
  return 1
end

-- A count in a hash, which goes when it is nothing.
special['!count'] = function(key, a)
  local n = redis.call('HINCRBY', key, a[1], a[2])
  local is_gone = a[3] == 'positive' and n <= 0 or a[3] == 'zero' and n == 0
  if is_gone then redis.call('HDEL', key, a[1]) end
  return n
end

-- The rule's id: an equal one's, or a new one's.
special['!acl'] = function(key, a)
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i + 1] == a[1] then return tonumber(all[i]) end
  end
  local id = redis.call('INCR', keys[tonumber(a[2])])
  redis.call('HSET', key, id, a[1])
  return id
end

-- Drops an owner's lock; the session's note of the lock goes with its last owner.
special['!unlock'] = function(key, a)
  redis.call('HDEL', key, a[1])
  for _, owner in ipairs(redis.call('HKEYS', key)) do
    if string.sub(owner, 1, #a[2]) == a[2] then return 0 end
  end
  redis.call('SREM', keys[tonumber(a[3])], key)
  return 1
end

-- Drops every lock of a session in these hashes.
special['!unlock-all'] = function(key, a)
  for i = 2, #a do
    local held = keys[tonumber(a[i])]
    for _, owner in ipairs(redis.call('HKEYS', held)) do
      if string.sub(owner, 1, #a[1]) == a[1] then redis.call('HDEL', held, owner) end
    end
    redis.call('SREM', key, held)
  end
  return 0
end

-- Drops log entries older than a second, and all but the last so many (0: all stay).
special['!trim'] = function(key, a)
  local before, keep = tonumber(a[1]), tonumber(a[2])
  if keep > 0 then redis.call('LTRIM', key, -keep, -1) end
  while true do
    local page = redis.call('LRANGE', key, 0, 99)
    local old = 0
    while old < #page and (tonumber(string.match(page[old + 1], '^%d+')) or 0) < before do old = old + 1 end
    if old > 0 then redis.call('LTRIM', key, old, -1) end
    if old < 100 then return 0 end
  end
end

local function learn()
  local out = {}
  for i = 1, tonumber(take()) do out[i] = instruction() end
  return out
end

-- A commit that came before, and comes again because its answer was lost.
local stamp = lane ~= '' and redis.call('HGET', stamps, lane)
local is_done = stamp and tonumber(string.match(stamp, '^%d+')) >= tonumber(sequence)

local found, moved = {}, false
for _ = 1, tonumber(take()) do
  local how, seen, now = take(), takes(tonumber(take())), {}
  for i = 1, tonumber(take()) do
    now[i] = instruction()
    found[#found + 1] = now[i]
  end
  if not moved and not is_done and not holds[how](seen, now) then moved = true end
end
if moved then return {0, found} end

local answers = {}
if is_done then
  for n in string.gmatch(string.match(stamp, '^%d+:%d+:(.*)$'), '[^,]+') do answers[#answers + 1] = tonumber(n) end
  for _ = 1, tonumber(take()) do
    take() take() take()
    takes(tonumber(take()))
  end
  return {1, answers, learn()}
end

-- The first write, so that a server out of memory refuses here, with nothing changed.
if lane ~= '' then redis.call('HSET', stamps, lane, sequence .. ':' .. secs .. ':') end
for _ = 1, tonumber(take()) do
  local is_asked = take() == 'a'
  local answer = instruction()
  if is_asked then answers[#answers + 1] = answer end
end
if lane ~= '' and #answers > 0 then
  local told = {}
  for i, n in ipairs(answers) do told[i] = string.format('%.0f', n) end
  redis.call('HSET', stamps, lane, sequence .. ':' .. secs .. ':' .. table.concat(told, ','))
end
return {1, answers, learn()}
