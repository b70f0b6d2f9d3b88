"""The cluster wing: KServe on Kubernetes, by server-side apply."""
