"""The paper's own numbers, and where they can stand beside ours."""
