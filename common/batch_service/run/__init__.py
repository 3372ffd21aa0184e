"""What really happens: commands, directories, transfers."""
