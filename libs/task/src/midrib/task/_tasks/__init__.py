"""The Task classes."""
