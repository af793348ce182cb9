"""Who may call, and how much a caller may hold."""
