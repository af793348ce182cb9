"""From a request to the checked arrays of an item, [rows, ...], and from its rows to the embedding with its options."""
