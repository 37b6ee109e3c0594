"""Code of both servers and the command line: keys, logs, addresses, the settings they have in common."""
