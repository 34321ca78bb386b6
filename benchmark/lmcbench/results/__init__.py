"""Numbers on disk: measures, records, the run folder and where they came from (torch-free)."""
