"""The program that fetches one model: `python -I start.py`, with what to do on its standard input.

It runs in a process of its own, with the interpreter that has kserve-storage: that package is heavy, writes credentials
into its environment and cannot be interrupted. It may be killed at any moment; the next start continues where it
was. S3 and http(s) are read here by the libraries that kserve-storage brings along, because it takes `llama-2/` for a
part of `llama`, keeps nothing of an attempt that failed and reports no progress. Everything else is left to it.

`program` is the way through, `transfer` fetches the files of a `Source` (`s3`, `https`), `library` leaves it to
kserve-storage, `checksums`, `archive` and `seal` see to what was fetched, `progress` and `failures` tell about it.
"""
