"""`doctor` for a cluster: can it be driven as the config asks, by whom the config names?

Checks ask the API server, and what they try is a dry run: nothing is left behind.
"""

from reconciler.cluster.doctor.examine import examine

__all__ = ["examine"]
