"""Draw the figures of a report from records."""
