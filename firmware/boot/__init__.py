"""How the firmware is started: by the boot ROM, from the verified image, in a process of its own."""
