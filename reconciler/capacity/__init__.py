"""What a host can still give while a plan is made. Pure."""

from reconciler.capacity.devices import WHOLE, fraction
from reconciler.capacity.ledger import Ledger, Need, impossible
from reconciler.capacity.memory import CROWDED

__all__ = ["CROWDED", "WHOLE", "Ledger", "Need", "fraction", "impossible"]
