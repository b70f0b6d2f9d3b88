"""What a host can still give while a plan is made. Pure."""

from reconciler.capacity.ledger import Ledger, impossible

__all__ = ["Ledger", "impossible"]
