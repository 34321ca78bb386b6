"""Data sets: finding, decoding and caching images, views of them, transforms, and batches."""
