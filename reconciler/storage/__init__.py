"""Models that are fetched from elsewhere before anything is stopped.

`sources` says which models these are and under which key their files are kept; it is pure. `download` is a program of
its own: it fetches one model in a process, and with an interpreter, of its own.
"""
