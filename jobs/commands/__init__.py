"""The commands of `shiftbench`, a module each."""
