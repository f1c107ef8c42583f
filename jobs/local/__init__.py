"""Runs as processes of this machine: started, followed, stopped; at once or in the background."""
