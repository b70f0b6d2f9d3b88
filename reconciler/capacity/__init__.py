"""What a host can still give while a plan is made. Pure."""

from reconciler.capacity.devices import WHOLE, fraction
from reconciler.capacity.ledger import Ledger, Need, impossible

__all__ = ["WHOLE", "Ledger", "Need", "fraction", "impossible"]
