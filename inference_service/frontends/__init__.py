"""Several processes that answer gRPC on one port, for an engine in a process of its own (`--frontends`).

supervisor.py  the engine's process: starts and replaces the fronts, loads the engine, drains
host.py        what the engine's process does for one front: generations, permits, quotas, receipts
front.py       the process of a front: the server with remote parts
remote.py      the remote parts: backend, admission and accounts, as the server sees them
calling.py     how a front uses the other process: it pulls values from generators there
link.py        the connection: batches of messages over a socket pair
"""
