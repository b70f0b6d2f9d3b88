"""How changes of services are rolled out on a cluster. Pure.

`goal` says where a service is heading: git's version, or the last good one, which `last_good` remembers. `strategy` is
the table of ways to get there, by what `gpus` finds free. `drain` says how pods end without cutting requests, and
`additions` how that and the strategy come into the InferenceService. `batches` rolls a runtime's change through its
services, and `deletion` takes a service away.
"""
