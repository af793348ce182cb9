"""The commands `midrib train` and `midrib predict`: from a folder or a table to a trained head, and back to labels."""
