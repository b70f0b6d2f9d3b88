"""What the daemon keeps in its state folder beside the records of its targets."""
