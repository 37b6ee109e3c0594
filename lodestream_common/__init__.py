"""What both servers and the command line share: keys, logs, addresses, the settings they have in common."""
