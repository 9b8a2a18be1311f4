"""Files in and out: FITS frames, alert packets, label files."""
