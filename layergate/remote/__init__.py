"""What the layers that reach a server over a network have in common.

`places` keeps one client for each process and event loop, `gathering` makes one round trip of reads that
come at the same time, `urls` shows a URL without its secrets. Nothing here knows a particular system.
"""
