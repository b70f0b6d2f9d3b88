"""Everything specific to vLLM: arguments, preflight, memory fit, probes."""
