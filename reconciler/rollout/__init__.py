"""One service's next steps on a host. Pure.

`aim` says where the service is heading, `staging` which files it needs first, `steps` which actions lead there from
what is observed now, `route` how requests reach it meanwhile, `claims` which room others must not take, `verdict` what
to tell people, `beside` what a second version comes after, `pruning` what becomes of what git does not
show. `decide` puts them together; `settled` is its short way.
"""

from reconciler.rollout.beside import all_wishes, wishes_now
from reconciler.rollout.claims import keep_room
from reconciler.rollout.decide import Decision, decide
from reconciler.rollout.pruning import reason_to_keep, reason_to_leave, reason_to_stay
from reconciler.rollout.route import route_left_alone
from reconciler.rollout.settled import settled
from reconciler.rollout.situation import Situation

__all__ = [
    "Decision",
    "Situation",
    "all_wishes",
    "decide",
    "keep_room",
    "reason_to_keep",
    "reason_to_leave",
    "reason_to_stay",
    "route_left_alone",
    "settled",
    "wishes_now",
]
