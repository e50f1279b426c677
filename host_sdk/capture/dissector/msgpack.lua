-- A msgpack map as a tree. Bounded in depth and items; whatever bytes there are, it ends with a value or a sentence.

local show_msgpack
do
    local MAX_DEPTH, MAX_ITEMS = 16, 4096

    -- Kind and fixed size of what each first byte begins: size of a length that follows, or of the value itself.
    local SIZED = {
        [0xc4] = { "bytes", 1 }, [0xc5] = { "bytes", 2 }, [0xc6] = { "bytes", 4 },
        [0xc7] = { "ext", 1 }, [0xc8] = { "ext", 2 }, [0xc9] = { "ext", 4 },
        [0xd9] = { "string", 1 }, [0xda] = { "string", 2 }, [0xdb] = { "string", 4 },
        [0xdc] = { "list", 2 }, [0xdd] = { "list", 4 }, [0xde] = { "map", 2 }, [0xdf] = { "map", 4 },
    }
    local FIXED = {
        [0xca] = { "float", 4 }, [0xcb] = { "float", 8 },
        [0xcc] = { "uint", 1 }, [0xcd] = { "uint", 2 }, [0xce] = { "uint", 4 }, [0xcf] = { "uint", 8 },
        [0xd0] = { "int", 1 }, [0xd1] = { "int", 2 }, [0xd2] = { "int", 4 }, [0xd3] = { "int", 8 },
        [0xd4] = { "ext", 2 }, [0xd5] = { "ext", 3 }, [0xd6] = { "ext", 5 }, [0xd7] = { "ext", 9 }, [0xd8] = { "ext", 17 },
    }

    -- Returns kind, where the content begins, and its size (containers: entries; small integers: the value), or nil and why.
    local function head(tvb, at, finish)
        if at >= finish then return nil, "ends before a value" end
        local code = tvb(at, 1):uint()
        if code < 0x80 then return "uint", at, 1 end
        if code >= 0xe0 then return "int", at, 1 end
        if code < 0x90 then return "map", at + 1, code - 0x80 end
        if code < 0xa0 then return "list", at + 1, code - 0x90 end
        if code < 0xc0 then return "string", at + 1, code - 0xa0 end
        if code == 0xc0 then return "null", at, 1 end
        if code == 0xc2 or code == 0xc3 then return "bool", at, 1 end
        local fixed, sized = FIXED[code], SIZED[code]
        if fixed then return fixed[1], at + 1, fixed[2] end
        if not sized then return nil, "0xc1 begins no value" end
        if at + 1 + sized[2] > finish then return nil, "ends within a length" end
        local size = tvb(at + 1, sized[2]):uint()
        -- The type of an extension stands between its length and its data; it is shown as the first byte.
        return sized[1], at + 1 + sized[2], sized[1] == "ext" and size + 1 or size
    end

    local function value_of(kind, tvb, at, size)
        local range = tvb(at, size)
        if kind == "uint" then return range:uint64(), tostring(range:uint64()) end
        if kind == "int" then return range:int64(), tostring(range:int64()) end
        if kind == "float" then return range:float(), tostring(range:float()) end
        if kind == "bool" then return range:uint() == 0xc3, tostring(range:uint() == 0xc3) end
        if kind == "null" then return nil, "nil" end
        if kind == "string" then
            local text = range:string(ENC_UTF_8)
            return text, '"' .. text .. '"'
        end
        return nil, string.format("%d bytes", size)
    end

    local function add_scalar(tree, kind, tvb, at, size, label)
        local field, item, value, text = F["msgpack." .. kind]
        if size == 0 then -- an empty text or blob has no bytes of its own
            text = kind == "string" and '""' or "0 bytes"
            item = kind == "string" and tree:add(field, tvb(at - 1, 1), "") or tree:add(tvb(at - 1, 1), "")
        else
            value, text = value_of(kind, tvb, at, size)
            if kind == "string" then item = tree:add_packet_field(field, tvb(at, size), ENC_UTF_8)
            elseif value ~= nil then item = tree:add(field, tvb(at, size), value)
            else item = tree:add(field, tvb(at, size)) end
        end
        item:set_text(label .. text)
        return value
    end

    local show

    local function show_entries(item, kind, tvb, at, finish, count, budget, depth)
        for index = 1, count do
            local label, name = string.format("[%d]: ", index - 1)
            if kind == "map" then
                local what, begin, size = head(tvb, at, finish)
                if not what then return nil, begin end
                if what == "map" or what == "list" then return nil, "a key that is no scalar" end
                if begin + size > finish then return nil, "ends within a key" end
                at = begin + size
                if size == 0 then name, label = "", '"": '
                else
                    local key, text = value_of(what, tvb, begin, size)
                    name = what == "string" and key or nil
                    label = (name or text) .. ": "
                end
            end
            local why
            at, why = show(item, tvb, at, finish, label, budget, depth + 1, name)
            if not at then return nil, why end
        end
        return at
    end

    function show(tree, tvb, at, finish, label, budget, depth, name)
        budget.items = budget.items - 1
        if budget.items < 0 then return nil, string.format("more than %d values", MAX_ITEMS) end
        if depth > MAX_DEPTH then return nil, string.format("deeper than %d", MAX_DEPTH) end
        local kind, begin, size = head(tvb, at, finish)
        if not kind then return nil, begin end
        if kind == "map" or kind == "list" then
            local item = tree:add(F["msgpack." .. kind], tvb(at, begin - at), size)
            item:set_text(string.format("%s%s of %d", label, kind, size))
            local after, why = show_entries(item, kind, tvb, begin, finish, size, budget, depth)
            if after then item:set_len(after - at) end
            return after, why
        end
        if begin + size > finish then return nil, "ends within a value" end
        local value = add_scalar(tree, kind, tvb, begin, size, label)
        if depth == 1 and name == "op" and kind == "string" and not budget.op then budget.op = value or "" end
        return begin + size
    end

    -- Shows the map in a range; returns nil or what is wrong with it, and the text under "op".
    function show_msgpack(tree, tvb, at, finish)
        local budget = { items = MAX_ITEMS }
        local kind, begin = head(tvb, at, finish)
        if not kind then return begin end
        if kind ~= "map" then return "is no map" end
        local after, why = show(tree, tvb, at, finish, "", budget, 0)
        if not after then return why, budget.op end
        return after < finish and string.format("%d bytes behind the map", finish - after) or nil, budget.op
    end
end
