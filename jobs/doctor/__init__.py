"""What is to be mended before the first job: checks of a cluster, on the login machine and on its nodes."""
