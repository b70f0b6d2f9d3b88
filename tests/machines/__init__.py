"""Disposable machines with a systemd of their own, for tests of what runs as units."""
