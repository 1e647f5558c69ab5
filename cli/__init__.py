"""The program `sidelight`."""
