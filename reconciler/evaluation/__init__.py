"""A revision → the desired state of each target, computed in a separate process with limits on memory, CPU and time.

Whatever a commit holds, it can end no more than that process. `evaluator` does the work, `worker` is the process,
`sandbox` is the daemon's end of it, and `wire` the protocol between the two.
"""
