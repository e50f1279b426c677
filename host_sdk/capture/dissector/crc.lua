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
