"""Labs: a switch, a host and appliances, described as data and run on this machine.

This package file imports nothing: :mod:`host_sdk.lab.enter` runs below it before anything may start a thread.
"""
