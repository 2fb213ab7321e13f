"""Training of the stages; `loop.train_and_evaluate` is the way in."""
