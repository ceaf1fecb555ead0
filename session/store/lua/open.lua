-- Judges a ticket. It ends a session only for a time that has passed, and each
-- of its writes is as true late as in time: Redis may run it twice, or long
-- after its caller gave up. A write that is refused (OOM) leaves the verdict
-- standing, hence pcall.
local app, known, generation, hash = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local idle, grace, settle, interval = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local activity, cookie, unwritten = ARGV[12] == '1', ARGV[13] == '1', tonumber(ARGV[14])
local remembered, outages = tonumber(ARGV[15]), ARGV[16]
local AHEAD = 10000

local now = clock()
local record, status, found = load()
if found and status ~= 'format' and slice(found, AT.app, 8) ~= app then return {'none', now} end
if not record then return {status, now, found or ''} end

local key, readable = slice(record, AT.key, 4), false
for i = 1, #known, 4 do readable = readable or string.sub(known, i, i + 3) == key end
if not readable then return {'key', now, record} end

if num(record, AT.flags, 1) == REMEMBERED then idle = remembered end

-- Time in which the gateway could not write is not idle time.
local seen = math.max(num(record, AT.seen, 8), unwritten)
if now >= num(record, AT.expires, 8) then return {'expired', now, finish(record, 2, 0)} end
local away = now - seen
for at = 0, #outages - 16, 16 do
  local from, to = math.max(num(outages, at, 8), seen), math.min(num(outages, at + 8, 8), now)
  if to > from then away = away - (to - from) end
end
if idle > 0 and away >= idle then return {'expired', now, finish(record, 1, 0)} end

local function write(at, b)
  local reply = redis.pcall('SETRANGE', KEYS[1], at, b)
  if type(reply) == 'table' and reply.err then return false end
  record = put(record, at, b)
  return true
end

local current = num(record, AT.generation, 8)
if generation > current then
  local first = num(record, AT.ahead, 8)
  if first == 0 then
    first = now
    write(AT.ahead, bytes(now, 8))
  end
  if now - first < AHEAD then return {'ahead', now, record} end
  return {'lost', now, record}
end

local verdict, predecessors
if generation == current then
  if hash ~= slice(record, AT.hash, 32) then return {'mismatch', now, record} end
  verdict = 'current'
  if num(record, AT.confirmed, 1) == 0 then
    predecessors = read(KEYS[2])
    if write(AT.confirmed, '\1') and predecessors ~= '' then
      local last = 0
      for at = 0, #predecessors - ENTRY, ENTRY do
        if num(predecessors, at + ENTRY_UNTIL, 8) == 0 then
          predecessors = put(predecessors, at + ENTRY_UNTIL, bytes(now + grace, 8))
        end
        last = math.max(last, num(predecessors, at + ENTRY_UNTIL, 8))
      end
      redis.pcall('SET', KEYS[2], predecessors, 'PXAT', string.format('%d', last - tonumber(ARGV[1])))
    end
  end
else
  predecessors = read(KEYS[2])
  -- While the current ticket is unconfirmed there is a predecessor on record,
  -- unless Redis has lost it: that is no proof of anything.
  if predecessors == '' and num(record, AT.confirmed, 1) == 0 then return {'lost', now, record} end
  verdict = 'reuse'
  for at = 0, #predecessors - ENTRY, ENTRY do
    if num(predecessors, at, 8) == generation then
      if hash ~= slice(predecessors, at + 8, 32) then return {'mismatch', now, record} end
      local till = num(predecessors, at + ENTRY_UNTIL, 8)
      local handed = num(record, AT.handed, 8)
      if till > now then
        verdict = 'grace'
      elseif till == 0 and handed == 0 then
        verdict = 'predecessor'
        if cookie and write(AT.handed, bytes(now, 8)) then verdict = 'handout' end
      elseif till == 0 and now - handed <= settle then
        verdict = 'predecessor'
      elseif till == 0 then
        verdict = 'settled'
      end
    end
  end
  if verdict == 'reuse' then return {'reuse', now, record} end
end

if unwritten > num(record, AT.seen, 8) then write(AT.seen, bytes(math.min(unwritten, now), 8)) end
if activity and now - num(record, AT.seen, 8) >= interval then write(AT.seen, bytes(now, 8)) end
return {verdict, now, record, predecessors or ''}
