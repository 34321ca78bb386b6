"""Submissions in, checked entries, ranks and rendered pages out (torch-free)."""
