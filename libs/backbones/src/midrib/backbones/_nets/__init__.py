"""The networks themselves. Everything here imports torch: only loaders import from here."""
