"""As vLLM does: binds its port at once, ignores SIGTERM while it starts, and listens when it is ready.

slow_start.py PORT [HOST]: with a host it is ready.
"""

import os
import signal
import socket
import sys

port, *hosts = sys.argv[1:]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket(socket.AF_INET6 if ":" in "".join(hosts) else socket.AF_INET)
listener.bind((hosts[0] if hosts else "127.0.0.1", int(port)))
if hosts:
    listener.listen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("ended", flush=True)))
if os.fork():
    print("up", flush=True)
while True:
    signal.pause()
