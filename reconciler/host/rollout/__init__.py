"""One service's next steps on a host. Pure.

`inputs` and `context` hold what is known of each service, and `decide` says what it needs; `fast_path` is the short
way for a service that is as git wants it. `goal` says where a service is heading, `staging` which files it needs
first. `strategy` is the table of ways there and chooses one (`fallback`: back to the last good digest), `move` takes
its steps, with `start` for what starts; `steps` collects them. `lifecycle` is what is due whatever the goal,
`failures` when to try again. `route` says how requests reach it meanwhile, `reservations` which room others must not
take, `canary` which of two versions comes next, `builds` what becomes of replicas that the config would start
otherwise now, `pruning` what becomes of what git does not show, `deletions` what waits for an approval. `isolation`
keeps a service that makes us raise from costing the others.
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
