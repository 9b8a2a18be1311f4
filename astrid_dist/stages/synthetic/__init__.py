"""Making a synthetic sky: what is put where, into which images, and what comes out of their subtraction."""
