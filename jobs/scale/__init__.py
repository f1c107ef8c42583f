"""One run on several numbers of nodes: which cells there are, and their jobs, one after the other."""
