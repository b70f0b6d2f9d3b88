"""The answer on the commit: statuses, deployments and plans on pull requests, at the forge that hosts the repository.

What is to be said is worked out from the status document alone (pure), written into an outbox, and delivered from there
by a thread of its own, so that neither a pass nor a crash waits for a forge.
"""
