"""The emulated hardware: an inference appliance that answers requests from the wire on its own."""
