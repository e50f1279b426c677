-- A whole message: extension block, body, trailer and CRC.

local Message = {}
do
    local FLAG, OPCODE, STATUS = SCHEMA.code.flag, SCHEMA.code.opcode, SCHEMA.code.status
    local MAPS = {}
    for _, name in ipairs({ "OPEN", "OPENED", "CONTROL", "CONTROLLED", "ANNOUNCE" }) do MAPS[OPCODE[name]] = true end
    local MAX_SHOWN = 200 -- characters of a list of numbers

    local function has(pdu, flag) return bit.band(pdu.flags, flag) ~= 0 end

    local function malformed(tree, text)
        tree:add_proto_expert_info(X.malformed, text)
    end

    -- Returns the set bits of a bitmap as ranges, "3-5, 9", and how many there are.
    local function ranges(bitmap, first)
        local parts, count, from = {}, 0, nil
        for index = 0, #bitmap * 8 do
            local byte = bitmap:byte(math.floor(index / 8) + 1) or 0
            local set = bit.band(bit.rshift(byte, 7 - index % 8), 1) == 1
            if set then
                count, from = count + 1, from or index
            elseif from then
                local a, b = string.format("%d", first + from), string.format("%d", first + index - 1)
                parts[#parts + 1] = a == b and a or a .. "-" .. b
                from = nil
            end
        end
        local text = table.concat(parts, ", ")
        return #text > MAX_SHOWN and text:sub(1, MAX_SHOWN) .. "…" or text, count
    end

    -- Shows the extension block; returns where the body begins.
    local function show_extensions(tree, tvb, finish)
        local layout, each = SCHEMA.layouts.extension_block, SCHEMA.layouts.extension
        if finish < layout.size then
            malformed(tree, "no room for the extension block that a flag announces")
            return 0
        end
        local size = tvb(0, layout.size):uint()
        local fits = size >= layout.size and size <= math.min(finish, SCHEMA.max_extension_block) and size % 4 == 0
        local branch = tree:add(tvb(0, fits and size or layout.size), "Extension block")
        add_layout(branch, tvb, 0, layout, "extension_block.")
        if not fits then
            malformed(branch, string.format("extension block of %d bytes", size))
            return layout.size
        end
        local at = layout.size
        while at < size do
            if size - at < each.size then
                malformed(branch, "extension block ends within an extension")
                return size
            end
            local one = branch:add(tvb(at, each.size), "Extension")
            local values = add_layout(one, tvb, at, each, "extension.")
            at = at + each.size
            if values.size > size - at then
                malformed(one, string.format("extension of %d bytes overruns its block", values.size))
                return size
            end
            if values.size > 0 then one:add(F["extension.value"], tvb(at, values.size)) end
            one:set_text(string.format("Extension 0x%04x, %d bytes", values.type, values.size))
            at = at + values.size + (-values.size) % 4
        end
        return size
    end

    local function show_trailer(tree, tvb, at)
        local layout = SCHEMA.layouts.trailer
        local branch = tree:add(tvb(at, layout.size), "Trailer")
        local values, items = add_layout(branch, tvb, at, layout, "trailer.")
        for _, prefix in ipairs({ "", "modelled_" }) do
            local parts, sum = {}, 0
            for _, stage in ipairs(SCHEMA.stages) do
                local name = prefix .. stage .. "_ns"
                local full = values[name] == 0xffffffff
                items[name]:append_text(full and " (or more)" or " (" .. duration(values[name]) .. ")")
                parts[#parts + 1], sum = stage .. " " .. duration(values[name]), sum + values[name]
            end
            local text = prefix == "" and "Measured: " or "Modelled: "
            branch:add(text .. table.concat(parts, ", ") .. "; in all " .. duration(sum)):set_generated()
            if prefix == "" then branch:append_text(string.format(": %s measured", duration(sum))) end
        end
    end

    -- Returns whether the CRC is right; made once for a message, which `kept` remembers.
    local function crc_is_right(pdu, tvb, finish, kept)
        if kept.crc_right == nil then
            local whole = tvb:raw(0, finish)
            kept.crc_right = crc32c(whole, pdu.covered_raw) == tvb(finish, SCHEMA.crc_size):uint()
            kept.bad_crc = not kept.crc_right
        end
        return kept.crc_right
    end

    local function show_crc(tree, pdu, tvb, finish, kept)
        local range = tvb(finish, SCHEMA.crc_size)
        local item = tree:add(F.crc, range)
        if not nip.prefs.check_crc then
            tree:add(F["crc.status"], range, 2):set_generated()
            return
        end
        local right = crc_is_right(pdu, tvb, finish, kept)
        item:append_text(right and " (good)" or " (bad)")
        tree:add(F["crc.status"], range, right and 1 or 0):set_generated()
        if not right then item:add_proto_expert_info(X.bad_crc) end
    end

    local function show_arrived(tree, tvb, begin, finish)
        local layout, size = SCHEMA.layouts.arrived, finish - begin
        if size < layout.size or size > layout.size + SCHEMA.max_arrived_bits / 8 then
            malformed(tree, string.format("%d bytes say nothing of fragments", size))
            return
        end
        local branch = tree:add(tvb(begin, size), "Arrived")
        local values = add_layout(branch, tvb, begin, layout, "arrived.")
        if values.window == 0 then malformed(branch, "a window of no fragments") end
        branch:set_text(string.format("Arrived: all before %d, window %d", values.base, values.window))
        if size > layout.size then
            local range = tvb(begin + layout.size, size - layout.size)
            local text = ranges(range:raw(), values.base)
            branch:add(F["arrived.bitmap"], range):append_text(" (" .. text .. ")")
            branch:append_text(text == "" and "" or ", and " .. text)
        end
    end

    local function show_settle(tree, tvb, begin, finish)
        local size = finish - begin
        if size > SCHEMA.max_arrived_bits / 8 then
            malformed(tree, string.format("a bitmap of %d bytes", size))
        elseif size > 0 then
            local range = tvb(begin, size)
            local text, count = ranges(range:raw(), 1)
            tree:add(F["settle.bitmap"], range):append_text(" (request + " .. text .. ")")
            tree:add(F["settle.count"], range, count):set_generated()
        end
    end

    -- Shows the body; returns the name of the operation of a CONTROL.
    local function show_body(tree, pdu, tvb, begin, finish)
        local range = finish > begin and tvb(begin, finish - begin) or nil
        if pdu.opcode == OPCODE.GRANT or pdu.opcode == OPCODE.RESEND then
            show_arrived(tree, tvb, begin, finish)
        elseif pdu.opcode == OPCODE.SETTLE then
            show_settle(tree, tvb, begin, finish)
        elseif pdu.is_reply and not pdu.is_notice and pdu.status ~= STATUS.OK then
            if range then tree:add_packet_field(F.text, range, ENC_UTF_8) end
        elseif MAPS[pdu.opcode] then
            local branch = range and tree:add(range, "Map (msgpack)") or tree
            local why, op = show_msgpack(branch, tvb, begin, finish)
            if why then malformed(branch, "msgpack: " .. why) end
            if op and pdu.opcode == OPCODE.CONTROL then add_found(tree, "control.op", op) end
            return op
        elseif range then
            tree:add(F.body, range)
        end
        return nil
    end

    -- Shows the message that a buffer holds; `kept` outlives this pass. Returns the operation of a CONTROL.
    function Message.show(tree, pdu, tvb, kept)
        local finish = tvb:len()
        if has(pdu, FLAG.CRC) then
            finish = finish - SCHEMA.crc_size
            if finish < 0 then return malformed(tree, "no room for the CRC that a flag announces") end
            show_crc(tree, pdu, tvb, finish, kept)
        end
        local trailer
        if pdu.is_reply and has(pdu, FLAG.TRAILER) then
            finish = finish - SCHEMA.layouts.trailer.size
            if finish < 0 then return malformed(tree, "no room for the trailer that a flag announces") end
            trailer = finish
        end
        local begin = has(pdu, FLAG.EXTENSION) and show_extensions(tree, tvb, finish) or 0
        local op = show_body(tree, pdu, tvb, begin, finish)
        if trailer then show_trailer(tree, tvb, trailer) end
        return op
    end
end
