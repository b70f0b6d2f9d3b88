"""What `render` and `validate` show: a tree of manifests judged before any daemon acts on it."""
