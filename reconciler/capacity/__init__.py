"""What a host can still give while a plan is made. Pure."""

from reconciler.capacity.devices import WHOLE, fraction
from reconciler.capacity.ledger import Ledger, Need, impossible, too_few_gpus
from reconciler.capacity.memory import CROWDED

__all__ = ["CROWDED", "WHOLE", "Ledger", "Need", "fraction", "impossible", "too_few_gpus"]
