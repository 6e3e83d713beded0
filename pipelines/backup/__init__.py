"""Backup and restore: the databases, what lies in the home, and which versions of the lake belong to them."""
