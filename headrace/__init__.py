"""The command, the local processes, and the demo."""
