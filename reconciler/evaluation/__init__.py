"""A revision → what it wants of each target, worked out in a process of its own with limits on memory, CPU and time.

Whatever a commit holds, it can end no more than that process. `evaluator` does the work, `worker` is the process,
`sandbox` is the daemon's end of it, and `wire` what the two say to each other.
"""
