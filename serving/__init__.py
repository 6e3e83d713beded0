"""The server: follows the registry's aliases and answers with the versions that they name."""

import os

# Where prometheus_client finds this when it is imported, it keeps counts in files that all registries and
# processes share. The server adds up its own processes (serving/shards.py). Feast sets it for itself, and whatever
# a program that imported Feast starts inherits it.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
