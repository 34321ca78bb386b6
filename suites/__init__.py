"""The published suites, one TOML file per suite and version."""
