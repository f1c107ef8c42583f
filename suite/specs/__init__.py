"""The parts of a run: their fields, what each means, and which values are refused. No torch here."""
