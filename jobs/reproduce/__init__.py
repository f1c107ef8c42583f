"""The paper's claims as ordinary experiments, and what is measured of their trained networks afterwards."""
