"""Host power: what a compute node draws, what it is limited to, whether it is on. One line per driver in `REGISTRY`.

`host.py` says what a driver is; `group.HostGroup` is what an HPC bank has of them.
"""
