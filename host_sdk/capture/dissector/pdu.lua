-- One PDU: header, seal, fragment, and its place among the others.

local SEALED, BROKEN = SCHEMA.code.flag.SEALED, SCHEMA.code.drop
local SEAL_SIZE, TAG_SIZE, HEADER_SIZE = SCHEMA.layouts.seal.size, SCHEMA.seal_tag_size, SCHEMA.layouts.request_header.size
local ETHERNET_SMALLEST, PORT_UDP = 46, 3
local MAX_LISTED = 1024 -- frames of fragments in the tree
local inside_icmp = Field.new("icmp.type") -- an ICMP error quotes frames; a quotation is no transmission

local PLACES = {}
for _, field in ipairs(SCHEMA.layouts.request_header.fields) do PLACES[field.name] = field end

local function raw_of(raw, name)
    return raw:sub(PLACES[name].offset + 1, PLACES[name].offset + PLACES[name].width)
end

local function without(raw, name)
    local begin, size = PLACES[name].offset, PLACES[name].width
    return raw:sub(1, begin) .. ("\0"):rep(size) .. raw:sub(begin + size + 1)
end

-- Takes a header apart; the tree gets its fields.
local function read_header(tree, tvb)
    local is_reply = bit.band(tvb(PLACES.opcode.offset, PLACES.opcode.width):uint(), SCHEMA.reply_bit) ~= 0
    local layout = is_reply and SCHEMA.layouts.reply_header or SCHEMA.layouts.request_header
    local branch = tree:add(tvb(0, HEADER_SIZE), "Header")
    local pdu, items = add_layout(branch, tvb, 0, layout, "")
    pdu.is_reply, pdu.deadline, pdu.status = is_reply, pdu.deadline or 0, pdu.status or 0
    local plain = is_reply and pdu.opcode - SCHEMA.reply_bit or pdu.opcode
    pdu.is_notice = plain >= SCHEMA.first_notice and plain <= SCHEMA.last_notice
    pdu.name = SCHEMA.values.opcode[pdu.opcode] or string.format("opcode 0x%02x", pdu.opcode)
    pdu.sealed = bit.band(pdu.flags, SEALED) ~= 0
    local raw = tvb:raw(0, HEADER_SIZE)
    pdu.session_raw, pdu.request_raw = raw_of(raw, "session"), raw_of(raw, "request")
    -- What the CRC covers, and what all fragments of a message have in common.
    pdu.covered_raw = without(without(raw, "fragment"), "credits")
    local flags_range = tvb(PLACES.flags.offset, PLACES.flags.width)
    local flags = {}
    for _, flag in ipairs(SCHEMA.flags) do
        items.flags:add(F["flags." .. flag.name:lower()], flags_range)
        if bit.band(pdu.flags, flag.mask) ~= 0 then flags[#flags + 1] = flag.name end
    end
    items.flags:add(F["flags.reserved"], flags_range)
    items.flags:append_text(" (" .. (#flags > 0 and table.concat(flags, ", ") or "none") .. ")")
    if bit.band(pdu.flags, SCHEMA.reserved_flags) ~= 0 then items.flags:add_proto_expert_info(X.unknown_flag) end
    if pdu.length > SCHEMA.max_message then items.length:add_proto_expert_info(X.too_long) end
    if is_reply and pdu.retry_after > 0 then
        items.retry_after:append_text(" (" .. duration(pdu.retry_after * SCHEMA.retry_after_unit_us * 1e3) .. ")")
    elseif not is_reply and pdu.deadline > 0 then
        items.deadline:append_text(" µs")
    end
    return pdu
end

-- Sets where the fragment lies; returns the reason for which a receiver drops such a PDU, or nil.
local function judge(pdu, size, smallest)
    local overhead = pdu.sealed and SEAL_SIZE + TAG_SIZE or 0
    if size < HEADER_SIZE + overhead then return BROKEN.TRUNCATED end
    if pdu.version ~= SCHEMA.version then return BROKEN.BAD_VERSION end
    if pdu.fragment_size == 0 then return BROKEN.BAD_FRAGMENT end
    pdu.fragments = math.max(1, math.ceil(pdu.length / pdu.fragment_size))
    if pdu.fragment >= pdu.fragments then return BROKEN.BAD_FRAGMENT end
    pdu.begin = HEADER_SIZE + (pdu.sealed and SEAL_SIZE or 0)
    pdu.size = math.min(pdu.fragment_size, pdu.length - pdu.fragment * pdu.fragment_size)
    local expected = HEADER_SIZE + overhead + pdu.size
    if size < expected then return BROKEN.TRUNCATED end
    if size > expected and size > smallest then return BROKEN.TRAILING_BYTES end
    pdu.finish = expected
    return nil
end

local function show_seal(tree, pdu, tvb)
    if tvb:len() < HEADER_SIZE + SEAL_SIZE then return end
    local branch = tree:add(tvb(HEADER_SIZE, SEAL_SIZE), "Seal")
    local values, items = add_layout(branch, tvb, HEADER_SIZE, SCHEMA.layouts.seal, "seal.")
    pdu.key, pdu.sequence = tostring(values.key), tostring(values.sequence)
    if values.sequence == UInt64(0) or values.sequence > UInt64(SCHEMA.seal_frames) then
        items.sequence:add_proto_expert_info(X.bad_sequence)
    end
end

local function show_ciphertext(tree, pdu, tvb)
    local tag = pdu.finish - TAG_SIZE
    if tvb:len() < pdu.finish then return end
    if pdu.size > 0 then
        tree:add(F["seal.ciphertext"], tvb(pdu.begin, pdu.size)):append_text(" (sealed: its content needs the key)")
    end
    tree:add(F["seal.tag"], tvb(tag, TAG_SIZE))
end

local function show_copy(tree, record)
    if not record.copy_of then return end
    local item = add_found(tree, "copy_of", record.copy_of)
    if record.copy_kind == "duplicate" then
        item:add_proto_expert_info(X.duplicate, string.format("A copy of frame %d that the network made", record.copy_of))
    else
        local why = record.refused_in and string.format(" after the refusal in frame %d", record.refused_in) or ""
        local text = record.again and "Answer given again" or "Sent again"
        item:add_proto_expert_info(X.retransmission, string.format("%s%s, as in frame %d", text, why, record.copy_of))
    end
end

local function show_times(tree, pdu, record, exchange)
    if not record.response_ns then return end
    add_found(tree, "response_time", seconds(record.response_ns))
    if record.response_last_ns then add_found(tree, "response_time_last", seconds(record.response_last_ns)) end
    if record.late_ns then
        tree:add_proto_expert_info(X.late, string.format("Answered %s after the deadline of %s, counted from frame %d",
            duration(record.late_ns), duration(exchange.deadline * 1e3), exchange.first))
    end
end

local function show_links(tree, pdu, pinfo, record)
    add_found(tree, "stream", record.stream)
    show_copy(tree, record)
    if record.conflict then
        tree:add_proto_expert_info(X.conflict, string.format("Header differs from that of frame %d", record.conflict))
    end
    local exchange = record.exchange
    if not exchange or not exchange.first then
        if pdu.is_reply and pdu.request_raw ~= ("\0"):rep(8) then tree:add_proto_expert_info(X.unasked) end
        return
    end
    if pdu.is_reply or pdu.is_notice then
        add_found(tree, "request_in", exchange.first)
        show_times(tree, pdu, record, exchange)
    elseif exchange.reply then
        add_found(tree, "reply_in", exchange.reply)
    elseif pinfo.visited and record.first then
        local text = "No answer in this capture"
        if exchange.refused_in then text = text .. " but the refusal in frame " .. exchange.refused_in end
        tree:add_proto_expert_info(X.unanswered, text)
    end
end

local function show_status(tree, pdu)
    if not pdu.is_reply or pdu.is_notice or pdu.status == SCHEMA.code.status.OK then return "" end
    local name = SCHEMA.values.status[pdu.status] or "status " .. pdu.status
    if name == "BUSY" then
        local text = "BUSY: try again after " .. duration(pdu.retry_after * SCHEMA.retry_after_unit_us * 1e3)
        tree:add_proto_expert_info(X.busy, text)
    else
        tree:add_proto_expert_info(X.refused, "Refused: " .. name .. ". " .. (SCHEMA.status_meanings[pdu.status] or ""))
    end
    return " " .. name
end

local function show_fragments(tree, pdu, pinfo, generation)
    add_found(tree, "fragment_count", pdu.fragments)
    if generation.whole_in then
        add_found(tree, "reassembled_in", generation.whole_in)
    elseif pinfo.visited then
        tree:add_proto_expert_info(X.incomplete, string.format("%d of %d fragments are not in this capture",
            generation.missing, pdu.fragments))
    end
    if generation.whole_in ~= pinfo.number then return end
    local branch = tree:add(string.format("%d fragments", pdu.fragments)):set_generated()
    for index = 0, math.min(pdu.fragments, MAX_LISTED) - 1 do
        local begin = index * pdu.fragment_size
        local finish = math.min(begin + pdu.fragment_size, pdu.length)
        add_found(branch, "fragment_in", generation.where[index]):append_text(
            string.format(" (fragment %d: bytes %d to %d)", index, begin, finish - 1))
    end
end

local function show_content(tree, pdu, tvb, pinfo, record)
    local generation = record and record.generation or {}
    local captured = tvb:len() >= pdu.finish
    if pdu.sealed then show_ciphertext(tree, pdu, tvb) end
    if pdu.fragments > 1 then
        if captured and not pdu.sealed then tree:add(F.fragment_data, tvb(pdu.begin, pdu.size)) end
        if not record or not record.generation then return end
        show_fragments(tree, pdu, pinfo, generation)
        if generation.data and generation.whole_in == pinfo.number then
            local whole = ByteArray.new(generation.data, true):tvb("Reassembled message")
            return Message.show(tree:add(whole(), "Reassembled message"), pdu, whole, generation)
        end
    elseif captured and not pdu.sealed then
        local body = pdu.size > 0 and tvb(pdu.begin, pdu.size):tvb() or ByteArray.new("", true):tvb("Empty message")
        local where = pdu.size > 0 and tree:add(tvb(pdu.begin, pdu.size), "Message") or tree
        return Message.show(where, pdu, body, record and record.single or {})
    end
end

local function describe(pdu, record, status, op)
    local parts = { pdu.name .. status }
    if op and op ~= "" then parts[1] = parts[1] .. " " .. op end
    if record and record.copy_of then
        local said = record.copy_kind == "duplicate" and "Duplicate" or record.again and "Again" or "Retransmission"
        table.insert(parts, 1, "[" .. said .. "]")
    end
    if pdu.sealed then parts[#parts + 1] = "(sealed)" end
    parts[#parts + 1] = string.format("session=%08x request=%s", pdu.session, tostring(pdu.request:tohex()))
    if pdu.pipeline > 0 then parts[#parts + 1] = "pipeline=" .. pdu.pipeline end
    if pdu.fragments > 1 then parts[#parts + 1] = string.format("fragment %d of %d", pdu.fragment, pdu.fragments) end
    parts[#parts + 1] = string.format("length=%d", pdu.length)
    if record and record.response_ns then parts[#parts + 1] = "after " .. duration(record.response_ns) end
    return table.concat(parts, " ")
end

local function drop(tree, reason, pinfo, name)
    local text = SCHEMA.drop_reasons[reason]
    add_found(tree, "drop_reason", reason)
    tree:add_proto_expert_info(X.dropped, text .. ": " .. SCHEMA.drop_meanings[reason])
    pinfo.cols.info:set(string.format("%s [%s]", name, text))
end

local function dissect_pdu(tvb, pinfo, tree)
    local size, captured = tvb:reported_len(), tvb:len()
    if captured < size then tree:add_proto_expert_info(X.cut) end
    if captured < HEADER_SIZE then
        if size < HEADER_SIZE then drop(tree, BROKEN.TRUNCATED, pinfo, "NIP") end
        return
    end
    local pdu = read_header(tree, tvb)
    if pdu.sealed then show_seal(tree, pdu, tvb) end
    local reason = judge(pdu, size, pinfo.port_type == PORT_UDP and 0 or ETHERNET_SMALLEST)
    if reason then
        drop(tree, reason, pinfo, pdu.name)
        if captured > HEADER_SIZE then tree:add(F.fragment_data, tvb(HEADER_SIZE)) end
        return
    end
    if not pinfo.visited and not inside_icmp() then
        local data = captured >= pdu.finish and pdu.fragments > 1 and pdu.size > 0 and tvb:raw(pdu.begin, pdu.size) or nil
        History.note(pdu, pinfo, data)
    end
    local record = not inside_icmp() and History.of(pinfo.number) or nil
    local op = show_content(tree, pdu, tvb, pinfo, record)
    if record and not pinfo.visited then History.judged(record, pdu, pinfo) end
    local status = show_status(tree, pdu)
    if record then show_links(tree, pdu, pinfo, record) end
    if captured > pdu.finish then tree:add(F.padding, tvb(pdu.finish)) end
    pinfo.cols.info:set(describe(pdu, record, status, op))
end

function nip.dissector(tvb, pinfo, tree)
    if tvb:len() == 0 then return 0 end
    pinfo.cols.protocol = "NIP"
    pinfo.cols.info:set("NIP")
    dissect_pdu(tvb, pinfo, tree:add(nip, tvb()))
    return tvb:len()
end

function nip.init() History.reset() end

DissectorTable.get("ethertype"):add(SCHEMA.ethertype, nip)
DissectorTable.get("udp.port"):add(SCHEMA.udp_port, nip)
