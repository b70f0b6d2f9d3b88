"""The config: one YAML file, read once, frozen. Every error names the file and the key."""
