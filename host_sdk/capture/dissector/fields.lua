-- The protocol's fields, made from SCHEMA, and what a fixed layout looks like in the tree.

local nip = Proto("nip", "NAPU Inference Protocol")
local F = {} -- fields by their name without "nip."
local X = {} -- expert infos by name

local function declare(name, kind, ...)
    F[name] = ProtoField[kind]("nip." .. name, ...)
end

-- What a layout's field is called: those of the two headers share their names.
local function declare_layout(layout, prefix)
    for _, field in ipairs(layout.fields) do
        local name, values = prefix .. field.name, SCHEMA.values[field.name]
        if not F[name] then
            local shown = field.hexadecimal and base.HEX or base.DEC
            declare(name, "uint" .. 8 * field.width, field.label, shown, values, nil, field.meaning)
        end
    end
end

declare_layout(SCHEMA.layouts.request_header, "")
declare_layout(SCHEMA.layouts.reply_header, "")
declare_layout(SCHEMA.layouts.trailer, "trailer.")
declare_layout(SCHEMA.layouts.extension_block, "extension_block.")
declare_layout(SCHEMA.layouts.extension, "extension.")
declare_layout(SCHEMA.layouts.arrived, "arrived.")
declare_layout(SCHEMA.layouts.seal, "seal.")
for _, flag in ipairs(SCHEMA.flags) do
    declare("flags." .. flag.name:lower(), "bool", flag.name, 16, nil, flag.mask, flag.meaning)
end
declare("flags.reserved", "uint16", "reserved", base.HEX, nil, SCHEMA.reserved_flags)

declare("extension.value", "bytes", "value")
declare("seal.ciphertext", "bytes", "ciphertext")
declare("seal.tag", "bytes", "tag")
declare("arrived.bitmap", "bytes", "bitmap")
declare("settle.bitmap", "bytes", "bitmap")
declare("settle.count", "uint32", "ids settled by the bitmap", base.DEC)
declare("fragment_data", "bytes", "fragment")
declare("body", "bytes", "body")
declare("text", "string", "text")
declare("crc", "uint32", "CRC-32C", base.HEX)
declare("crc.status", "uint8", "CRC status", base.DEC, { [0] = "bad", [1] = "good", [2] = "not checked" })
declare("padding", "bytes", "padding")
declare("drop_reason", "uint8", "a receiver drops this frame", base.DEC, SCHEMA.drop_reasons)
declare("control.op", "string", "operation")
for kind, type in pairs({ map = "uint32", list = "uint32", string = "string", bytes = "bytes", int = "int64",
    uint = "uint64", float = "double", bool = "bool", null = "none", ext = "bytes" }) do
    declare("msgpack." .. kind, type, kind)
end

declare("stream", "uint32", "stream index", base.DEC, nil, nil, "Numbers requester, responder and session together.")
declare("fragment_count", "uint32", "fragments of the message", base.DEC)
declare("fragment_in", "framenum", "fragment in frame", base.NONE, frametype.NONE)
declare("reassembled_in", "framenum", "reassembled in frame", base.NONE, frametype.NONE)
declare("request_in", "framenum", "request in frame", base.NONE, frametype.REQUEST)
declare("reply_in", "framenum", "reply in frame", base.NONE, frametype.RESPONSE)
declare("copy_of", "framenum", "same as in frame", base.NONE, frametype.NONE)
declare("response_time", "relative_time", "time since the request's first frame")
declare("response_time_last", "relative_time", "time since its last transmission")

local function declare_expert(name, text, group, severity)
    X[name] = ProtoExpert.new("nip." .. name, text, group, severity)
end

declare_expert("dropped", "A receiver drops this frame", expert.group.MALFORMED, expert.severity.ERROR)
declare_expert("malformed", "The message contradicts itself", expert.group.MALFORMED, expert.severity.ERROR)
declare_expert("cut", "The capture does not hold the whole frame", expert.group.UNDECODED, expert.severity.NOTE)
declare_expert("unknown_flag", "A flag that version 1 does not know", expert.group.PROTOCOL, expert.severity.WARN)
declare_expert("too_long", "Longer than a message may be", expert.group.PROTOCOL, expert.severity.WARN)
declare_expert("bad_crc", "Wrong CRC-32C", expert.group.CHECKSUM, expert.severity.ERROR)
declare_expert("bad_sequence", "The seal's sequence is out of range", expert.group.PROTOCOL, expert.severity.WARN)
declare_expert("conflict", "Differs from the fragments before it", expert.group.PROTOCOL, expert.severity.WARN)
declare_expert("incomplete", "Not all fragments are in the capture", expert.group.REASSEMBLE, expert.severity.WARN)
declare_expert("retransmission", "Sent again", expert.group.SEQUENCE, expert.severity.NOTE)
declare_expert("duplicate", "A copy that the network made", expert.group.SEQUENCE, expert.severity.NOTE)
declare_expert("busy", "Refused for now: BUSY", expert.group.RESPONSE_CODE, expert.severity.NOTE)
declare_expert("refused", "Refused", expert.group.RESPONSE_CODE, expert.severity.WARN)
declare_expert("late", "Answered after the deadline", expert.group.SEQUENCE, expert.severity.WARN)
declare_expert("unanswered", "No answer in this capture", expert.group.SEQUENCE, expert.severity.WARN)
declare_expert("unasked", "The request is not in this capture", expert.group.SEQUENCE, expert.severity.NOTE)

local all_fields, all_experts = {}, {}
for _, field in pairs(F) do all_fields[#all_fields + 1] = field end
for _, info in pairs(X) do all_experts[#all_experts + 1] = info end
nip.fields, nip.experts = all_fields, all_experts
nip.prefs.check_crc = Pref.bool("Check the CRC of messages", true, "Takes a second for some ten megabytes.")

-- Adds a layout's fields to a tree; returns their values by name (64 bits: UInt64), and their items.
local function add_layout(tree, tvb, at, layout, prefix)
    local values, items = {}, {}
    for _, field in ipairs(layout.fields) do
        local range = tvb(at + field.offset, field.width)
        values[field.name] = field.width == 8 and range:uint64() or range:uint()
        items[field.name] = tree:add(F[prefix .. field.name], range)
    end
    return values, items
end

-- A link or another thing that the dissector found out.
local function add_found(tree, name, value)
    return tree:add(F[name], value):set_generated()
end

local function seconds(ns)
    return NSTime.new(math.floor(ns / 1e9), ns % 1e9)
end

local function duration(ns)
    if ns < 1e3 then return string.format("%d ns", ns) end
    if ns < 1e6 then return string.format("%.1f µs", ns / 1e3) end
    if ns < 1e9 then return string.format("%.3f ms", ns / 1e6) end
    return string.format("%.3f s", ns / 1e9)
end
