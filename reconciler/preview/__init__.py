"""What `render` and `validate` show: a tree of manifests, checked before any daemon acts on it."""
