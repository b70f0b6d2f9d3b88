"""What we know about vLLM."""
