"""How good detections are, measured against a truth."""
