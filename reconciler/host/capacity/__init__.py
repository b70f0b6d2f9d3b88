"""What a host can still give while a plan is made. Pure."""

from reconciler.host.capacity.gpu_ledger import WHOLE, fraction
from reconciler.host.capacity.ledger import Ledger, Need, impossible, too_few_gpus

__all__ = ["WHOLE", "Ledger", "Need", "fraction", "impossible", "too_few_gpus"]
