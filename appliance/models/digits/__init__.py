"""Handwritten digits: the default model of the appliance, its manifest, its held-out images and its card."""
