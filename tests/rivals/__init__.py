"""Servers that this project did not write, each in an environment of its own: what is tested and measured against."""
