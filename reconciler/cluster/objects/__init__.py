"""Single objects of a cluster: what is ours of them, how they differ from git, in what order they go. Pure."""
