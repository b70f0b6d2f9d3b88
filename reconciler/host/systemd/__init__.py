"""Replicas as units of systemd: they need no daemon to serve, and a reboot brings them back."""
