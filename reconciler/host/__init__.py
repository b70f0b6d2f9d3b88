"""One bare GPU host as a target: plan, rollout, replicas, models, proxy."""
