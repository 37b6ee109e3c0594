"""The RPCs: authentication, life of a call, statuses, and the services' methods."""
