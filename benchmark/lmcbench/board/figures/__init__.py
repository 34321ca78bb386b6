"""Records in, the figures of a report out."""
