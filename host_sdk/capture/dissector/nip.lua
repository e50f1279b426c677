-- NIP, the NAPU inference protocol, for Wireshark and tshark; tested with version 4.0.
-- Made from host_sdk/wire/schema.py and the parts in host_sdk/capture/dissector by
-- `python -m host_sdk.capture.dissector`; change those, not this file.

local SCHEMA = {
    version = 1,
    ethertype = 34997,
    udp_port = 34997,
    reply_bit = 128,
    first_notice = 32,
    last_notice = 63,
    max_message = 16777216,
    max_extension_block = 1024,
    max_arrived_bits = 1024,
    crc_size = 4,
    seal_tag_size = 16,
    seal_frames = 2147483648,
    retry_after_unit_us = 100,
    reserved_flags = 65504,
    stages = { "rx", "queue", "pre", "dla", "post", "tx" },
    layouts = {
        request_header = {
            size = 32,
            fields = {
                {
                    name = "version",
                    label = "version",
                    offset = 0,
                    width = 1,
                    hexadecimal = false,
                    meaning = "Version of this protocol: 1.",
                },
                {
                    name = "opcode",
                    label = "opcode",
                    offset = 1,
                    width = 1,
                    hexadecimal = true,
                    meaning = "What the message is; bit 7 is set in replies.",
                },
                {
                    name = "flags",
                    label = "flags",
                    offset = 2,
                    width = 2,
                    hexadecimal = true,
                    meaning = "Which optional parts the message has.",
                },
                {
                    name = "session",
                    label = "session",
                    offset = 4,
                    width = 4,
                    hexadecimal = true,
                    meaning = "Session that the message belongs to; 0 is none.",
                },
                {
                    name = "request",
                    label = "request",
                    offset = 8,
                    width = 8,
                    hexadecimal = true,
                    meaning = "Chosen by the requester, unique within its session; a reply repeats it.",
                },
                {
                    name = "length",
                    label = "length",
                    offset = 16,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Bytes of the whole message: extensions, body, trailer and CRC.",
                },
                {
                    name = "pipeline",
                    label = "pipeline",
                    offset = 20,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Handle of the pipeline that an INFER names and a RESULT comes from; else 0.",
                },
                {
                    name = "priority",
                    label = "priority",
                    offset = 22,
                    width = 1,
                    hexadecimal = false,
                    meaning = "0 (lowest) to 255; a reply repeats it.",
                },
                {
                    name = "credits",
                    label = "credits",
                    offset = 23,
                    width = 1,
                    hexadecimal = false,
                    meaning = "In replies: requests the session may have outstanding. In requests: 0.",
                },
                {
                    name = "fragment",
                    label = "fragment",
                    offset = 24,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Index of this fragment, from 0.",
                },
                {
                    name = "fragment_size",
                    label = "fragment size",
                    offset = 26,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Bytes of the message in every fragment but the last; at least 1.",
                },
                {
                    name = "deadline",
                    label = "deadline",
                    offset = 28,
                    width = 4,
                    hexadecimal = false,
                    meaning = "µs after arrival at which the answer is worthless; 0 is never.",
                },
            },
        },
        reply_header = {
            size = 32,
            fields = {
                {
                    name = "version",
                    label = "version",
                    offset = 0,
                    width = 1,
                    hexadecimal = false,
                    meaning = "Version of this protocol: 1.",
                },
                {
                    name = "opcode",
                    label = "opcode",
                    offset = 1,
                    width = 1,
                    hexadecimal = true,
                    meaning = "What the message is; bit 7 is set in replies.",
                },
                {
                    name = "flags",
                    label = "flags",
                    offset = 2,
                    width = 2,
                    hexadecimal = true,
                    meaning = "Which optional parts the message has.",
                },
                {
                    name = "session",
                    label = "session",
                    offset = 4,
                    width = 4,
                    hexadecimal = true,
                    meaning = "Session that the message belongs to; 0 is none.",
                },
                {
                    name = "request",
                    label = "request",
                    offset = 8,
                    width = 8,
                    hexadecimal = true,
                    meaning = "Chosen by the requester, unique within its session; a reply repeats it.",
                },
                {
                    name = "length",
                    label = "length",
                    offset = 16,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Bytes of the whole message: extensions, body, trailer and CRC.",
                },
                {
                    name = "pipeline",
                    label = "pipeline",
                    offset = 20,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Handle of the pipeline that an INFER names and a RESULT comes from; else 0.",
                },
                {
                    name = "priority",
                    label = "priority",
                    offset = 22,
                    width = 1,
                    hexadecimal = false,
                    meaning = "0 (lowest) to 255; a reply repeats it.",
                },
                {
                    name = "credits",
                    label = "credits",
                    offset = 23,
                    width = 1,
                    hexadecimal = false,
                    meaning = "In replies: requests the session may have outstanding. In requests: 0.",
                },
                {
                    name = "fragment",
                    label = "fragment",
                    offset = 24,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Index of this fragment, from 0.",
                },
                {
                    name = "fragment_size",
                    label = "fragment size",
                    offset = 26,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Bytes of the message in every fragment but the last; at least 1.",
                },
                {
                    name = "status",
                    label = "status",
                    offset = 28,
                    width = 2,
                    hexadecimal = false,
                    meaning = "What became of the request; 0 is OK.",
                },
                {
                    name = "retry_after",
                    label = "retry after",
                    offset = 30,
                    width = 2,
                    hexadecimal = false,
                    meaning = "With BUSY: when to try again, in units of 100 µs; else 0.",
                },
            },
        },
        trailer = {
            size = 64,
            fields = {
                {
                    name = "rx_ns",
                    label = "rx ns",
                    offset = 0,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Measured ns in stage rx.",
                },
                {
                    name = "queue_ns",
                    label = "queue ns",
                    offset = 4,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Measured ns in stage queue.",
                },
                {
                    name = "pre_ns",
                    label = "pre ns",
                    offset = 8,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Measured ns in stage pre.",
                },
                {
                    name = "dla_ns",
                    label = "dla ns",
                    offset = 12,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Measured ns in stage dla.",
                },
                {
                    name = "post_ns",
                    label = "post ns",
                    offset = 16,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Measured ns in stage post.",
                },
                {
                    name = "tx_ns",
                    label = "tx ns",
                    offset = 20,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Measured ns in stage tx.",
                },
                {
                    name = "modelled_rx_ns",
                    label = "modelled rx ns",
                    offset = 24,
                    width = 4,
                    hexadecimal = false,
                    meaning = "ns that the profile's hardware would take in stage rx.",
                },
                {
                    name = "modelled_queue_ns",
                    label = "modelled queue ns",
                    offset = 28,
                    width = 4,
                    hexadecimal = false,
                    meaning = "ns that the profile's hardware would take in stage queue.",
                },
                {
                    name = "modelled_pre_ns",
                    label = "modelled pre ns",
                    offset = 32,
                    width = 4,
                    hexadecimal = false,
                    meaning = "ns that the profile's hardware would take in stage pre.",
                },
                {
                    name = "modelled_dla_ns",
                    label = "modelled dla ns",
                    offset = 36,
                    width = 4,
                    hexadecimal = false,
                    meaning = "ns that the profile's hardware would take in stage dla.",
                },
                {
                    name = "modelled_post_ns",
                    label = "modelled post ns",
                    offset = 40,
                    width = 4,
                    hexadecimal = false,
                    meaning = "ns that the profile's hardware would take in stage post.",
                },
                {
                    name = "modelled_tx_ns",
                    label = "modelled tx ns",
                    offset = 44,
                    width = 4,
                    hexadecimal = false,
                    meaning = "ns that the profile's hardware would take in stage tx.",
                },
                {
                    name = "energy_nj",
                    label = "energy nj",
                    offset = 48,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Modelled energy of this inference in nJ.",
                },
                {
                    name = "batch_size",
                    label = "batch size",
                    offset = 52,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Requests that shared the DLA invocation.",
                },
                {
                    name = "firmware_epoch",
                    label = "firmware epoch",
                    offset = 54,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Boots of the firmware, modulo 65536.",
                },
                {
                    name = "model_digest",
                    label = "model digest",
                    offset = 56,
                    width = 8,
                    hexadecimal = true,
                    meaning = "First 8 bytes of the SHA-256 of the model file.",
                },
            },
        },
        extension_block = {
            size = 4,
            fields = {
                {
                    name = "block_size",
                    label = "block size",
                    offset = 0,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Bytes of the block, itself included; a multiple of 4, at most 1024.",
                },
            },
        },
        extension = {
            size = 4,
            fields = {
                {
                    name = "type",
                    label = "type",
                    offset = 0,
                    width = 2,
                    hexadecimal = true,
                    meaning = "What the value is.",
                },
                {
                    name = "size",
                    label = "size",
                    offset = 2,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Bytes of value, before padding to 4.",
                },
            },
        },
        arrived = {
            size = 8,
            fields = {
                {
                    name = "opcode",
                    label = "opcode",
                    offset = 0,
                    width = 1,
                    hexadecimal = true,
                    meaning = "Opcode of the message whose fragments these are.",
                },
                {
                    name = "reserved",
                    label = "reserved",
                    offset = 1,
                    width = 1,
                    hexadecimal = false,
                    meaning = "0; ignored.",
                },
                {
                    name = "window",
                    label = "window",
                    offset = 2,
                    width = 2,
                    hexadecimal = false,
                    meaning = "Fragments from `base` on that may be under way; at least 1.",
                },
                {
                    name = "base",
                    label = "base",
                    offset = 4,
                    width = 4,
                    hexadecimal = false,
                    meaning = "Every fragment before this one has arrived.",
                },
            },
        },
        seal = {
            size = 16,
            fields = {
                {
                    name = "key",
                    label = "key",
                    offset = 0,
                    width = 8,
                    hexadecimal = true,
                    meaning = "Number of the key that was granted; 1 to 2^63 - 1.",
                },
                {
                    name = "sequence",
                    label = "sequence",
                    offset = 8,
                    width = 8,
                    hexadecimal = false,
                    meaning = "Counts the frames of this sender under this key, from 1; at most 2^31.",
                },
            },
        },
    },
    flags = {
        { name = "CRC", mask = 1, meaning = "The message ends in a CRC-32C; the reply shall too." },
        {
            name = "TRAILER",
            mask = 2,
            meaning = "Request: the reply shall have a trailer. Reply: it has one.",
        },
        { name = "EXTENSION", mask = 4, meaning = "The message begins with an extension block." },
        {
            name = "ONCE",
            mask = 8,
            meaning = "INFER: executed at most once, and its answer kept. RESULT: it answers such a request.",
        },
        {
            name = "SEALED",
            mask = 16,
            meaning = "Of a frame: a seal follows the header, and the fragment is encrypted (section 15).",
        },
    },
    values = {
        opcode = {
            [1] = "DISCOVER",
            [2] = "OPEN",
            [3] = "CLOSE",
            [4] = "CONTROL",
            [16] = "INFER",
            [32] = "CANCEL",
            [33] = "SETTLE",
            [34] = "RESEND",
            [129] = "ANNOUNCE",
            [130] = "OPENED",
            [131] = "CLOSED",
            [132] = "CONTROLLED",
            [144] = "RESULT",
            [160] = "WORKING",
            [161] = "UNKNOWN",
            [162] = "GRANT",
        },
        status = {
            [0] = "OK",
            [16] = "BUSY",
            [17] = "DEADLINE_EXCEEDED",
            [18] = "UNAVAILABLE",
            [19] = "INTERNAL",
            [20] = "CANCELLED",
            [32] = "MALFORMED",
            [33] = "UNKNOWN_OPCODE",
            [34] = "UNSUPPORTED_FLAG",
            [35] = "BAD_CRC",
            [36] = "TOO_LARGE",
            [37] = "FRAGMENT_CONFLICT",
            [38] = "REASSEMBLY_TIMEOUT",
            [48] = "UNKNOWN_SESSION",
            [49] = "UNKNOWN_PIPELINE",
            [50] = "WRONG_SIZE",
            [51] = "UNDECODABLE",
            [64] = "UNKNOWN_OPERATION",
            [65] = "BAD_ARGUMENT",
            [66] = "BAD_PIPELINE",
            [67] = "NO_SPACE",
            [80] = "NOT_AUTHENTICATED",
            [81] = "NOT_PERMITTED",
            [82] = "NOT_SEALED",
            [83] = "UNKNOWN_KEY",
        },
    },
    status_meanings = {
        [0] = "The body is the answer.",
        [16] = "No room now; try again after retry_after.",
        [17] = "The deadline passed before the work was done, so it was not.",
        [18] = "The part of the appliance that answers this is not running; try again.",
        [19] = "The appliance failed; its log says why.",
        [20] = "The requester cancelled it before it was done.",
        [32] = "The message contradicts itself or its opcode.",
        [33] = "The opcode is not one that this appliance serves.",
        [34] = "A flag is set that this appliance does not know.",
        [35] = "The CRC-32C does not match the message.",
        [36] = "The message is longer than this appliance takes.",
        [37] = "Fragments of one request contradict each other.",
        [38] = "The missing fragments did not arrive in time.",
        [48] = "The session is not open; open one.",
        [49] = "No pipeline has this handle.",
        [50] = "The body has another size than the pipeline's input.",
        [51] = "The body is not media of a kind and size that the pipeline takes.",
        [64] = "The control operation is not one that this firmware serves.",
        [65] = "An argument of the control operation is missing or wrong.",
        [66] = "The pipeline package cannot be run on this appliance.",
        [67] = "Flash or memory is full; remove something first.",
        [80] = "Nobody has proved who asks: there is no certificate, or it does not count.",
        [81] = "Who asks is known, and has not the role that this takes, or not this pipeline.",
        [82] = "The pipeline takes sealed frames alone, and this came in the clear.",
        [83] = "The seal's key is not known here; a hint that nobody vouches for.",
    },
    drop_reasons = {
        [0] = "ACCEPTED",
        [1] = "TRUNCATED",
        [2] = "TRAILING_BYTES",
        [3] = "BAD_VERSION",
        [4] = "BAD_FRAGMENT",
        [5] = "NOT_A_REQUEST",
        [6] = "FRAGMENT_DUPLICATE",
        [7] = "REASSEMBLY_FULL",
        [8] = "DISCOVERY_RATE",
        [9] = "UNANSWERABLE",
        [10] = "MAILBOX_FULL",
        [11] = "DUPLICATE",
        [12] = "OUTDATED",
        [13] = "NOT_KNOWN",
        [14] = "OVER_CREDIT",
        [15] = "BAD_SEAL",
        [16] = "REPLAYED",
        [17] = "UNKNOWN_KEY",
        [18] = "OVER_RATE",
    },
    drop_meanings = {
        [0] = "Taken further; every such request is answered.",
        [1] = "Shorter than a header, or than the fragment that the header announces.",
        [2] = "Longer than its fragment, and not by Ethernet's padding.",
        [3] = "Another version of the protocol.",
        [4] = "Fragment index or size impossible for the message's length.",
        [5] = "A reply, sent to one who only answers.",
        [6] = "This fragment is there already.",
        [7] = "No memory left to reassemble another message.",
        [8] = "More discovery queries than are answered in a second.",
        [9] = "The frame's source is no one's address, so nobody could be answered.",
        [10] = "A discovery query, and the firmware has not read those before it.",
        [11] = "A copy of a ONCE request that is known: told so, or given the same answer again.",
        [12] = "A copy of a ONCE request that its session's window has left behind.",
        [13] = "A notice about a session or request that is not known.",
        [14] = "An INFER over its session's credits, and not among the first of those that came at once.",
        [15] = "A sealed frame that was not made with its key, as it is, in this direction.",
        [16] = "A sealed frame whose sequence has been, or is too far behind to tell.",
        [17] = "A sealed frame whose key was not granted to its sender, or is not in force any more.",
        [18] = "An INFER over its tenant's rate, and not among the first of those that came at once.",
    },
    code = {
        flag = { CRC = 1, TRAILER = 2, EXTENSION = 4, ONCE = 8, SEALED = 16 },
        opcode = {
            DISCOVER = 1,
            OPEN = 2,
            CLOSE = 3,
            CONTROL = 4,
            INFER = 16,
            CANCEL = 32,
            SETTLE = 33,
            RESEND = 34,
            ANNOUNCE = 129,
            OPENED = 130,
            CLOSED = 131,
            CONTROLLED = 132,
            RESULT = 144,
            WORKING = 160,
            UNKNOWN = 161,
            GRANT = 162,
        },
        status = {
            OK = 0,
            BUSY = 16,
            DEADLINE_EXCEEDED = 17,
            UNAVAILABLE = 18,
            INTERNAL = 19,
            CANCELLED = 20,
            MALFORMED = 32,
            UNKNOWN_OPCODE = 33,
            UNSUPPORTED_FLAG = 34,
            BAD_CRC = 35,
            TOO_LARGE = 36,
            FRAGMENT_CONFLICT = 37,
            REASSEMBLY_TIMEOUT = 38,
            UNKNOWN_SESSION = 48,
            UNKNOWN_PIPELINE = 49,
            WRONG_SIZE = 50,
            UNDECODABLE = 51,
            UNKNOWN_OPERATION = 64,
            BAD_ARGUMENT = 65,
            BAD_PIPELINE = 66,
            NO_SPACE = 67,
            NOT_AUTHENTICATED = 80,
            NOT_PERMITTED = 81,
            NOT_SEALED = 82,
            UNKNOWN_KEY = 83,
        },
        drop = {
            ACCEPTED = 0,
            TRUNCATED = 1,
            TRAILING_BYTES = 2,
            BAD_VERSION = 3,
            BAD_FRAGMENT = 4,
            NOT_A_REQUEST = 5,
            FRAGMENT_DUPLICATE = 6,
            REASSEMBLY_FULL = 7,
            DISCOVERY_RATE = 8,
            UNANSWERABLE = 9,
            MAILBOX_FULL = 10,
            DUPLICATE = 11,
            OUTDATED = 12,
            NOT_KNOWN = 13,
            OVER_CREDIT = 14,
            BAD_SEAL = 15,
            REPLAYED = 16,
            UNKNOWN_KEY = 17,
            OVER_RATE = 18,
        },
    },
}

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

-- CRC-32C (Castagnoli), by a table of 256.

local crc32c
do
    local bxor, band, rshift = bit.bxor, bit.band, bit.rshift
    local step = {}
    for index = 0, 255 do
        local value = index
        for _ = 1, 8 do
            value = band(value, 1) == 1 and bxor(rshift(value, 1), 0x82f63b78) or rshift(value, 1)
        end
        step[index] = value
    end

    -- Returns the CRC of several strings, one behind the other.
    function crc32c(...)
        local state, byte = bit.tobit(0xffffffff), string.byte
        for _, text in ipairs({ ... }) do
            for at = 1, #text do
                state = bxor(rshift(state, 8), step[band(bxor(state, byte(text, at)), 0xff)])
            end
        end
        return bit.bnot(state) % 2 ^ 32
    end
end

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
