"""What we use of the operating system: files, processes, sockets, limits."""
