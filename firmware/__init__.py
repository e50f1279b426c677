"""What boots and runs on the board's management core: everything of an appliance that is policy."""
