"""Replicas as child processes of the daemon, which outlive it."""
