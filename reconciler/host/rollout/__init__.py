"""One service's next steps on a host. Pure.

`goal` says where the service is heading and `staging` which files it needs first. `ways` is the table of ways there,
`strategy` chooses one from what is observed now, and `move` takes its steps, with `start` for what starts. `route` says
how requests reach it meanwhile, `reservations` which room others must not take, `verdict` what to tell people, `canary`
which of two versions comes next, `pruning` what becomes of what git does not show. `contexts` puts together what is
known of each service, and `decide` what it needs; `fast_path` is the short way of a service that is as git wants it.
"""

from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.decide import Decision, decide
from reconciler.host.rollout.fast_path import fast_path
from reconciler.host.rollout.pruning import reason_to_keep, reason_to_leave, reason_to_stay
from reconciler.host.rollout.reservations import keep_room
from reconciler.host.rollout.route import unchanged_route

__all__ = [
    "Decision",
    "ServiceContext",
    "decide",
    "fast_path",
    "keep_room",
    "reason_to_keep",
    "reason_to_leave",
    "reason_to_stay",
    "unchanged_route",
]
