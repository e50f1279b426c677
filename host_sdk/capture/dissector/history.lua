-- What earlier frames have to do with this one. Filled on the first pass over a capture, when frames come in order;
-- later passes look up what was found. A *message* is one direction's bytes, an *exchange* a request and all about it.

local History = {}
do
    local frames, exchanges, sealed_exchanges, messages, streams, stream_count

    function History.reset()
        frames, exchanges, sealed_exchanges, messages, streams, stream_count = {}, {}, {}, {}, {}, 0
    end
    History.reset()

    local COPY_NS = 1e6 -- requesters wait longer than this before they send anything again unasked
    local RETRIED = {} -- statuses after which the same request comes again
    for _, name in ipairs({ "BUSY", "UNAVAILABLE", "REASSEMBLY_TIMEOUT", "BAD_CRC", "UNKNOWN_KEY" }) do
        RETRIED[SCHEMA.code.status[name]] = true
    end
    local OPCODE, STATUS = SCHEMA.code.opcode, SCHEMA.code.status

    local function stream_of(requester, responder, session)
        local key = requester .. "|" .. responder .. "|" .. session
        if not streams[key] then
            streams[key], stream_count = stream_count, stream_count + 1
        end
        return streams[key]
    end

    -- Returns the exchange that a PDU belongs to, or nil; a request that is new begins one. What is sealed belongs to its
    -- key, but for the hint that a key is not known, which comes in the clear.
    local function find_exchange(pdu, requester, responder)
        local base = pdu.is_reply and pdu.opcode - SCHEMA.reply_bit or pdu.opcode
        local session = base == OPCODE.OPEN and "" or pdu.session_raw
        local peers = requester .. "|" .. (base == OPCODE.DISCOVER and "*" or responder)
        local function plain_key(opcode) return table.concat({ peers, session, pdu.request_raw, opcode }, "|") end
        local function key(opcode) return plain_key(opcode) .. (pdu.key and "|" .. pdu.key or "") end
        if pdu.is_notice then
            if base == OPCODE.SETTLE then return nil end
            return exchanges[key(OPCODE.INFER)] or exchanges[key(OPCODE.CONTROL)]
        end
        local found = exchanges[key(base)]
        local another = found and found.reply and found.fixed ~= pdu.covered_raw -- the id was taken again
        if not pdu.is_reply and (not found or another) then
            found = { asks = 0, deadline = pdu.deadline, fixed = pdu.covered_raw }
            exchanges[key(base)] = found
            if pdu.sealed then sealed_exchanges[plain_key(base)] = found end
        elseif pdu.status == STATUS.UNKNOWN_KEY and not pdu.sealed then
            found = sealed_exchanges[plain_key(base)] or found
        end
        return found
    end

    local function begin_generation(message, pdu)
        message.now = { missing = pdu.fragments, parts = {}, where = {}, kept = not pdu.sealed and pdu.fragments > 1 }
    end

    -- Returns the message that a PDU is a fragment of.
    local function find_message(pdu, source, destination)
        local key = table.concat({ source, destination, pdu.opcode, pdu.session_raw, pdu.request_raw, pdu.key }, "|")
        local found, conflict = messages[key], nil
        if found and found.fixed ~= pdu.covered_raw then
            conflict = found.now.missing > 0 and found.now.latest or nil
            found = found.others[pdu.covered_raw]
        end
        if not found then
            found = { fixed = pdu.covered_raw, seen = {}, times = {}, others = messages[key] and messages[key].others or {} }
            found.others[pdu.covered_raw] = found
            begin_generation(found, pdu)
        end
        messages[key] = found
        return found, conflict
    end

    -- Says whether a fragment that was seen before was sent again, or copied on its way.
    local function judge_copy(record, message, exchange, pdu, now)
        local before = message.seen[pdu.fragment]
        local copies = message.times[pdu.fragment]
        record.copy_of = before.number
        local sent_again
        if pdu.is_reply then -- nobody answers again unasked
            sent_again = exchange and exchange.asks >= copies
        else
            local heard = exchange and exchange.heard_ns and exchange.heard_ns >= before.ns
            sent_again = heard or now - before.ns >= COPY_NS
        end
        -- A seal's sequence is never used twice by its sender.
        if pdu.sealed then sent_again = before.sequence ~= pdu.sequence end
        record.copy_kind = sent_again and "retransmission" or "duplicate"
        local after = exchange and exchange.refused_in
        record.refused_in = not pdu.is_reply and sent_again and after and after > before.number and after or nil
        if sent_again and pdu.is_reply then record.again = true end
    end

    local function note_request(record, exchange, pdu, number, now)
        if not exchange.first then exchange.first, exchange.first_ns = number, now end
        if record.copy_kind ~= "duplicate" then exchange.last_ns = now end
        if pdu.fragment == pdu.fragments - 1 then exchange.asks = exchange.asks + 1 end
        record.first = exchange.first == number
    end

    local function note_reply(record, exchange, pdu, number, now)
        exchange.heard_ns = now
        if RETRIED[pdu.status] then
            exchange.refused_in, exchange.restart = number, true
        elseif not exchange.reply then
            exchange.reply = number
        end
        record.response_ns = now - exchange.first_ns
        if exchange.last_ns > exchange.first_ns then record.response_last_ns = now - exchange.last_ns end
        if exchange.deadline > 0 and pdu.status == STATUS.OK then
            local late = record.response_ns - exchange.deadline * 1e3
            record.late_ns = late > 0 and late or nil
        end
    end

    -- Puts a fragment where it belongs; returns whether the message has become whole by it.
    local function keep_fragment(message, pdu, data, number)
        local now = message.now
        if now.missing == 0 or now.where[pdu.fragment] then return false end
        now.where[pdu.fragment], now.latest = number, number
        now.missing = now.missing - 1
        if now.kept and data then now.parts[pdu.fragment + 1] = data else now.kept = false end
        if now.missing > 0 then return false end
        now.whole_in = number
        if now.kept then now.data = table.concat(now.parts) end
        now.parts = nil
        return true
    end

    local function note_fragment(record, exchange, pdu, data, peers, number, now)
        local message, conflict = find_message(pdu, peers.source, peers.destination)
        record.conflict = conflict
        message.times[pdu.fragment] = (message.times[pdu.fragment] or 0) + 1
        if message.seen[pdu.fragment] then judge_copy(record, message, exchange, pdu, now) end
        message.seen[pdu.fragment] = { number = number, ns = now, sequence = pdu.sequence }
        -- After a refusal, or when it was damaged, the other side has forgotten what it had.
        local forgotten = message.now.bad_crc or (exchange and exchange.restart and not pdu.is_reply)
        if forgotten and message.now.where[pdu.fragment] then begin_generation(message, pdu) end
        if forgotten and exchange and not pdu.is_reply then exchange.restart = false end
        record.generation = message.now
        return keep_fragment(message, pdu, data, number)
    end

    -- Takes note of a PDU; `data` is its fragment, nil where the capture has not all of it.
    function History.note(pdu, pinfo, data)
        local number, now = pinfo.number, math.floor(pinfo.rel_ts * 1e9 + 0.5)
        local source = tostring(pinfo.src) .. " " .. pinfo.src_port
        local destination = tostring(pinfo.dst) .. " " .. pinfo.dst_port
        local requester, responder = source, destination
        if pdu.is_reply then requester, responder = destination, source end
        local record = { stream = stream_of(requester, responder, pdu.session_raw) }
        frames[number] = record
        local exchange = find_exchange(pdu, requester, responder)
        record.exchange = exchange
        local peers = { source = source, destination = destination }
        if pdu.is_notice then
            if not exchange then return record end
            if pdu.is_reply then
                exchange.heard_ns = now
                if pdu.opcode == OPCODE.UNKNOWN then exchange.restart = true end
            elseif pdu.opcode == OPCODE.RESEND then
                exchange.asks = exchange.asks + 1
            end
            return record
        end
        record.single, record.ns = {}, now
        record.completes = note_fragment(record, exchange, pdu, data, peers, number, now)
        if not pdu.is_reply then note_request(record, exchange, pdu, number, now) end
        return record
    end

    -- Takes note of what the content of a frame showed: a reply whose CRC is wrong is none.
    function History.judged(record, pdu, pinfo)
        local generation, exchange = record.generation, record.exchange
        if not generation then return end
        local wrong = pdu.fragments > 1 and generation.bad_crc or record.single.bad_crc
        if record.completes and wrong then generation.bad_crc = true end
        if not pdu.is_reply or not exchange or wrong then return end
        if record.completes or (RETRIED[pdu.status] and pdu.fragments == 1) then
            note_reply(record, exchange, pdu, pinfo.number, record.ns)
        else
            exchange.heard_ns = record.ns
        end
    end

    function History.of(number) return frames[number] end
end
