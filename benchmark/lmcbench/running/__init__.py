"""The main job: train the families of a suite, evaluate their cells and write the records."""
