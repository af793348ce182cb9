"""The console: pages for people on the HTTP port, and the API that those pages call."""
