"""The local Batch service: the Batch REST API on 127.0.0.1; nodes are directories, tasks are real processes."""
