"""The clients for numpy users."""
