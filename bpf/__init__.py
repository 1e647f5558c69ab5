"""The C programs, shipped as data: agent/compiler.py reads them."""
