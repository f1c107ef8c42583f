"""What was submitted: the ledger, the folders of jobs, the sources that they import."""
