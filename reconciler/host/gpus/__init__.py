"""The GPUs of a host: devices, MIG parts, and who uses them."""
