"""The management side of the board: what the firmware reaches over the bus.

Kept empty: the firmware imports :mod:`appliance.board.regmap` and nothing else of the appliance.
"""
