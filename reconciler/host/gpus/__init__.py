"""The GPUs of a host: devices, MIG parts, and the processes on them."""
