"""Status as data, history and logs."""
