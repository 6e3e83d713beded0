"""The documentation site: pages of this repository, and a reference that is made from the code."""
