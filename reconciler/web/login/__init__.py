"""Ways to log in: what begins the session of a browser, and what it is."""
