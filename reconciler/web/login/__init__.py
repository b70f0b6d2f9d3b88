"""Ways to log in."""
