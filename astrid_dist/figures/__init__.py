"""What is drawn the same everywhere: triplets, score histograms, completeness, light curves, the page frame.

Figures are `matplotlib.figure.Figure` objects, never pyplot's global ones: they can be made in any thread, on
any worker, and a notebook shows them as they are.
"""
