"""Learning from samples. The model and its losses need numpy and torch alone, so they travel anywhere."""
