"""Array operations without parameters that the networks, their fast forms and the losses share."""
