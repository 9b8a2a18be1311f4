"""What is done to one image or one pair: pure functions on arrays, no file and no cluster."""
