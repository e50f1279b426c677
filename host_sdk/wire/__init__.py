"""The cable: the NAPU Inference Protocol (NIP) version 1, its state machines and the links that carry it.

Everything in the house may import this package; it imports none of the others.
"""
