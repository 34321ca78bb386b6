"""The main job: a suite's families are trained, measured and recorded."""
