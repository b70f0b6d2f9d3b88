"""The program of a preflight: it asks the installed vLLM whether it accepts arguments.

Run by the interpreter of the workload, which knows nothing of `reconciler`: standard library and vLLM only, Python 3.9
and later. `preflight_probe` is started; the others are its parts.
"""
