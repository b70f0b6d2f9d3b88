"""A real identity provider on loopback: panva's oidc-provider, which `tests/run.sh` installs; and who logs in there."""
