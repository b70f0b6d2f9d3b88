"""`host doctor`: can this host do what its config asks for? Every topic is a module, every check a function of
findings.

Checks read and ask, and leave nothing behind: the daemon and its replicas do not notice them. A check that cannot be
made is a finding as well.
"""

from reconciler.host.doctor.examine import examine

__all__ = ["examine"]
