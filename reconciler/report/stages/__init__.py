"""The line of stages of a service's rollout: of the one that is under way, or else of the last one. Pure.

Each stage follows from facts of the service's document of the status, and from nothing else:

staged       `staging`: every model and image is there. A replica that was started had its files
started      `startedAt` of the replicas of the new version
first token  `readyAt` of those: the replica answered a real completion. On a cluster KServe calls its pod ready, and
             `tokenFault` says whether a token comes back
switched     those of them that requests are sent to
drained      no replica of another version is left
promoted     `promoted` names the new version, or all is in sync with git
rolled back  only once the new version has failed: as many replicas of the promoted one serve as were promoted

They stand in the order in which they happen. Where there is no room for both, old replicas are drained before new ones
start. Otherwise they are drained last: on a host after the promotion, on a cluster before it. At most one stage is
`active`; none is where the rollout stands still (the first one that is not done is `waiting` or `failed`, and its
detail says why) and where all is done. `at` is when a stage got into its state, None where that is not known.

`line` puts them together, in their order. `rollout` says what rolls out, and `progress` how far each stage is and what
holds it up; `failure` is the line of what failed. `stage` says what one stage is, `text` shows a line.
"""

from reconciler.report.stages.line import stages_document
from reconciler.report.stages.stage import StageName, StageState
from reconciler.report.stages.text import is_under_way, stages_line

__all__ = ["StageName", "StageState", "is_under_way", "stages_document", "stages_line"]
