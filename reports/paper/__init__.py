"""The paper's numbers, and the cells of ours that they compare with."""
