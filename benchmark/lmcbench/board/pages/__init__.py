"""Submissions in, the rendered leaderboard out (torch-free)."""
