"""The parts of a run, each with its fields, their meaning, and what is refused."""
