"""From bytes, PIL images and arrays to the RGB pixels of one fixed size."""
