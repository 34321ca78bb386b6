"""What a submission is, and whether it holds together (torch-free)."""
