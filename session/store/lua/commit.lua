-- Changes box or ticket: `advance` (the shown ticket was the current one),
-- `in_place` (a predecessor was shown: same ticket, new box) or `reissue` (an
-- unused successor is superseded by another).
local version, attempt, change = ARGV[4], ARGV[5], ARGV[6]
local sent, generation, hash, key = ARGV[7] == '1', ARGV[8], ARGV[9], ARGV[10]
local handed, settle, entry, salts, body = ARGV[11] == '1', tonumber(ARGV[12]), ARGV[13], ARGV[14], ARGV[15]
-- Redis has acknowledged this change before and went back behind it.
local again = ARGV[16] == '1'
local LIMIT = 8

local now = clock()
local record, status, found = load()
if not record then return {status, now, found or ''} end
if slice(record, AT.attempt, 16) == attempt then return {'ok', now, record} end
if slice(record, AT.version, 8) ~= version then return {'version', now, record} end
local sending = slice(record, AT.sending, 16)
-- What was sent is spent, also if Redis has lost its mark, which shows as the same
-- version without one, or if that made room for another's. What wasn't gives way
-- to any mark, in its second run too: new tokens are about to come.
if sending ~= NONE and not (sent and (again or sending == attempt)) then return {'sending', now, record} end
if change == 'reissue' then
  if num(record, AT.confirmed, 1) == 1 then return {'version', now, record} end
  local at = num(record, AT.handed, 8)
  if at == 0 or now - at <= settle then return {'version', now, record} end
end

if change ~= 'in_place' then
  -- Each kept entry gets the salt that was sealed anew for this generation;
  -- the sealed salts come as generation 8, key id 4, salt 64.
  local kept = {}
  local old = read(KEYS[2])
  for at = 0, #old - ENTRY, ENTRY do
    local till = num(old, at + ENTRY_UNTIL, 8)
    for s = 0, #salts - 76, 76 do
      if slice(salts, s, 8) == slice(old, at, 8) and (till == 0 or till > now) then
        -- The shown ticket was confirmed; Redis may have forgotten that, too.
        if again and till == 0 and change == 'advance' then old = put(old, at + ENTRY_UNTIL, bytes(now + settle / 3, 8)) end
        kept[#kept + 1] = slice(old, at, ENTRY_KEY) .. slice(salts, s + 8, 68)
      end
    end
  end
  if change == 'advance' then
    if #kept >= LIMIT then return {'full', now, record} end
    kept[#kept + 1] = entry
    record = put(record, AT['local'], '\0')
  end
  local expires = num(record, AT.expires, 8) + DAY - tonumber(ARGV[1])
  redis.call('SET', KEYS[2], table.concat(kept), 'PXAT', string.format('%d', expires))
  record = put(record, AT.generation, generation .. hash)
  record = put(record, AT.confirmed, '\0')
  local at = 0
  if handed then at = now end
  record = put(record, AT.handed, bytes(at, 8))
end

record = put(record, AT.key, key)
record = raise(unlease(record))
record = put(record, AT.sending, NONE)
record = put(record, AT.looked, bytes(0, 8))
record = put(record, AT.attempt, attempt)
record = put(record, AT.ahead, bytes(0, 8))
if sent then record = put(record, AT.unknowns, '\0') end
record = slice(record, 0, HEADER) .. body
redis.call('SET', KEYS[1], record, 'KEEPTTL')
changed(record)
return {'ok', now, record}
