"""The server: follows the registry's aliases and answers with the versions that they name."""
