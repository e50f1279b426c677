"""Captures: reading frames back, and the scapy layer. Needs the extra ``rig``."""
