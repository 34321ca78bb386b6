"""Build networks and train them: adaptations, optimizers, engines, training states, cost."""
