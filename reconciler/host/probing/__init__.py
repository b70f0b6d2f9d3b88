"""How the replicas of a host are: probed in the background, judged by what they answered."""
