-- Answers reading instructions, all of one moment. Changes nothing.

-- An entry with its inode's record; if there is no entry, the directory's own record.
special['!entry'] = function(key, a)
  local entry = redis.call('HGET', key, a[1])
  if not entry then return {false, false, redis.call('GET', a[2] .. 'i' .. a[3])} end
  return {entry, redis.call('GET', a[2] .. 'i' .. decimal(string.sub(entry, 2, 9))), false}
end

local function records_of(prefix, entries, first, step)
  local wanted, records = {}, {}
  local function ask()
    for _, record in ipairs(redis.call('MGET', unpack(wanted))) do records[#records + 1] = record end
    wanted = {}
  end
  for i = first, #entries, step do
    -- An entry that is gone asks for a key that cannot exist.
    wanted[#wanted + 1] = prefix .. 'i' .. (entries[i] and decimal(string.sub(entries[i], 2, 9)) or '-')
    if #wanted == 1000 then ask() end
  end
  if #wanted > 0 then ask() end
  return records
end

-- A whole directory, unless it has more than so many entries: names and entries in turn, records.
special['!list'] = function(key, a)
  local n = redis.call('HLEN', key)
  if n > tonumber(a[1]) then return {n} end
  local all = redis.call('HGETALL', key)
  if a[2] == '1' then return {n, all, records_of(a[3], all, 2, 2)} end
  return {n, all, {}}
end

-- Some names of a directory: their entries, records.
special['!some'] = function(key, a)
  local names = {}
  for i = 3, #a do names[i - 2] = a[i] end
  local entries = redis.call('HMGET', key, unpack(names))
  if a[1] == '1' then return {entries, records_of(a[2], entries, 1, 1)} end
  return {entries, {}}
end

-- Indices of a file's chunks that have a list, from one index to another, at most so many; and
-- where to go on.
special['!chunks'] = function(_, a)
  local found, stem = {}, a[1]
  local from, to, limit = tonumber(a[2]), tonumber(a[3]), tonumber(a[4])
  for i = from, to do
    if redis.call('EXISTS', stem .. string.format('%.0f', i)) == 1 then
      found[#found + 1] = i
      if #found == limit then return {found, i + 1} end
    end
  end
  return {found, to + 1}
end

local out = {}
for i = 1, tonumber(take()) do out[i] = instruction() end
return out
