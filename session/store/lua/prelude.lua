-- What every script shares. KEYS[1] is the record, KEYS[2] its predecessors;
-- both carry {sid}, so they live in one slot. ARGV[1] is added to Redis's clock
-- (tests only), ARGV[2] is the channel for events, ARGV[3] the sid as text.
-- Offsets count from 0 and are those of record.go; a test compares them.
local FORMAT = 1
local AT = {
  format = 0, status = 1, reason = 2, flags = 3, app = 4, key = 12, version = 16, generation = 24,
  hash = 32, confirmed = 64, unknowns = 65, ['local'] = 66, handed = 68, created = 76, seen = 84, expires = 92,
  ahead = 100, lease_until = 108, lease = 116, sending = 132, looked = 148, attempt = 156,
}
local HEADER = 172
local ENDED = 2
local REMEMBERED = 2 -- a flag of a live record; 1 is a tombstone's lock
local NONE = string.rep('\0', 16)
local DAY = 86400000
local LONGEST = 4194304 -- bytes of a value that are read: nothing longer is written

-- Predecessor entries: generation 8, hash 32, until 8, key id 4, salt 64.
local ENTRY, ENTRY_UNTIL, ENTRY_KEY = 116, 40, 48

local function num(s, at, size)
  local n = 0
  for i = at + 1, at + size do n = n * 256 + string.byte(s, i) end
  return n
end

local function bytes(n, size)
  local t = {}
  for i = size, 1, -1 do
    t[i] = string.char(n % 256)
    n = math.floor(n / 256)
  end
  return table.concat(t)
end

local function slice(s, at, size) return string.sub(s, at + 1, at + size) end

local function put(s, at, b) return string.sub(s, 1, at) .. b .. string.sub(s, at + #b + 1) end

-- read is GET, of no more than the gateway shall have to take. Nothing is ''.
local function read(key) return redis.call('GETRANGE', key, 0, LONGEST - 1) end

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[1])
end

-- An end leaves a tombstone that remembers why until a day after the session
-- would have ended. In a tombstone `looked` is when its lock is over, 0 for
-- never. Where SET lacks memory, DEL frees it. It doesn't come first: where a
-- Cluster is moving the slot, a key that isn't there can't be written any more,
-- and the session would be gone without a trace.
local function finish(record, reason, flags, locked_until)
  local expires = num(record, AT.expires, 8)
  local t = slice(record, 0, HEADER)
  t = put(t, AT.status, string.char(ENDED, reason, flags))
  t = put(t, AT.hash, string.rep('\0', 32))
  t = put(t, AT.lease_until, string.rep('\0', HEADER - AT.lease_until))
  t = put(t, AT.looked, bytes(locked_until or 0, 8))
  local till = string.format('%d', expires + DAY - tonumber(ARGV[1]))
  local reply = redis.pcall('SET', KEYS[1], t, 'PXAT', till)
  redis.call('DEL', KEYS[2])
  if type(reply) == 'table' and reply.err then
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[1], t, 'PXAT', till)
  end
  redis.call('PUBLISH', ARGV[2], 'end ' .. ARGV[3])
  return t
end

-- load returns the record if a change may touch it, else nil and what to
-- answer. A newer format is never overwritten, nor is what is no whole header.
local function load(version)
  local record = read(KEYS[1])
  if record == '' then return nil, 'none' end
  if #record < HEADER or num(record, AT.format, 1) ~= FORMAT then return nil, 'format', record end
  if num(record, AT.status, 1) == ENDED then return nil, 'ended', record end
  if version and slice(record, AT.version, 8) ~= version then return nil, 'version', record end
  return record, 'ok', record
end

-- save writes the header back and leaves the body and the TTL as they are.
local function save(record) redis.call('SETRANGE', KEYS[1], 0, slice(record, 0, HEADER)) end

local function raise(record) return put(record, AT.version, bytes(num(record, AT.version, 8) + 1, 8)) end

local function leased(record, now) return num(record, AT.lease_until, 8) > now end

local function unlease(record) return put(record, AT.lease_until, string.rep('\0', 24)) end

local function changed(record)
  redis.call('PUBLISH', ARGV[2], 'change ' .. ARGV[3] .. ' ' .. string.format('%d', num(record, AT.generation, 8)))
end
