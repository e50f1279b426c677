"""The small models that ship with the appliance, each with a card, a manifest and its training script."""
