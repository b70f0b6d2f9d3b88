"""What forges send when something was pushed: is it believed, and what does it wake."""
