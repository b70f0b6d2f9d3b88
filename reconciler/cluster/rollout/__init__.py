"""How changes of services are rolled out on a cluster: room, strategy, drain, batches, last good version. Pure."""
