"""Frontend processes: several answer gRPC on one port, for an engine in a process of its own (`--frontends`).

supervisor.py  the engine's process: starts and replaces the frontends, loads the engine, drains
host.py        what the engine's process does for one frontend: generations, permits, quotas, receipts
frontend.py    the frontend process: the server with remote parts
remote.py      the remote parts: backend, admission and accounting, as the server sees them
calling.py     calls from a frontend to the engine's process: generators there, whose values it pulls
link.py        the connection: batches of messages over a socket pair
"""
