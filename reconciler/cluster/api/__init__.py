"""Everything that talks to an API server: the connection, objects, errors, watches, leader election."""
