"""What the runs say: differences, slopes, verdicts, answers."""
