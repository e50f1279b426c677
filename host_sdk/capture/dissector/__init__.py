"""The Wireshark dissector: Lua written here, with tables made from the schema; ``nip.lua`` is the two in one."""
