"""Check whether an architecture is ready to run, and write a template of one."""
