"""The daemon as a service of this host: its user, folders, config and unit, put in place and taken away again.

It writes the files of `deploy/systemd/`, which can also be copied manually.
"""

from reconciler.host.install.install import CONFIG, install, is_configured
from reconciler.host.install.root import System
from reconciler.host.install.steps import Done, Step, StepResult, carry_out
from reconciler.host.install.uninstall import uninstall, what_is_left

__all__ = [
    "CONFIG",
    "Done",
    "Step",
    "StepResult",
    "System",
    "carry_out",
    "install",
    "is_configured",
    "uninstall",
    "what_is_left",
]
