"""What the daemon keeps in its state folder in addition to the records of its targets."""
