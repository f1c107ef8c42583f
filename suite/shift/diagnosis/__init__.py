"""The parts of `suite.shift.diagnose`: what is observed, which causes it fits, and what each costs."""
