// Keeps what a page shows fresh.
