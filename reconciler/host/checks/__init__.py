"""What is found out about a spec before a replica of it starts."""
