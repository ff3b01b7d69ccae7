-- Shared by both scripts: reading instructions and attribute records. Arguments are a stream:
-- an instruction is its command, the number of its key, how many arguments follow, and those.
local argv, keys, at = ARGV, KEYS, 0

local function take()
  at = at + 1
  return argv[at]
end

local function takes(n)
  local list = {}
  for i = 1, n do list[i] = take() end
  return list
end

-- 8 bytes, big-endian, as decimal text: a Lua number would lose digits above 2^53.
local function decimal(b)
  local a1, a2, a3, a4, a5, a6, a7, a8 = string.byte(b, 1, 8)
  local hi = ((a1 * 256 + a2) * 256 + a3) * 256 + a4
  local lo = ((a5 * 256 + a6) * 256 + a7) * 256 + a8
  if hi < 2097152 then return string.format('%.0f', hi * 4294967296 + lo) end
  local rest = (hi % 1000000) * 4294967296 + lo
  local head = math.floor(hi / 1000000) * 4294967296 + math.floor(rest / 1000000)
  return string.format('%.0f%06.0f', head, rest % 1000000)
end

local special = {}

local function instruction()
  local command, key, n = take(), keys[tonumber(take())], tonumber(take())
  local own = special[command]
  if own then return own(key, takes(n)) end
  if n == 0 then return redis.call(command, key) end
  if n == 1 then return redis.call(command, key, take()) end
  return redis.call(command, key, unpack(takes(n)))
end
