"""One service's next steps on a host. Pure.

`aim` says where the service is heading, `staging` which files it needs first, `steps` which actions lead there from
what is observed now, `route` how requests reach it meanwhile, `claims` which room others must not take, `verdict` what
to tell people, `beside` what a second version comes after. `decide` puts them together; `settled` is its short way.
"""

from reconciler.rollout.beside import all_wishes, wishes_now
from reconciler.rollout.claims import keep_room
from reconciler.rollout.decide import Decision, decide
from reconciler.rollout.route import route_left_alone
from reconciler.rollout.settled import settled
from reconciler.rollout.situation import Situation

__all__ = ["Decision", "Situation", "all_wishes", "decide", "keep_room", "route_left_alone", "settled", "wishes_now"]
