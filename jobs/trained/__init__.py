"""What is measured of runs after they have trained: noise on their estimates, robustness to shifts."""
