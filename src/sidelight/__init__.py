"""Sidelight: who talks to whom on a node, how well, and under which name. Without sidecars.

The packages are the folders at the top of the repository; this one only links to them.
"""

__version__ = "0.1.0"
