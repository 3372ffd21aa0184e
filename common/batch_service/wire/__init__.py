"""How the service is spoken to: nothing here knows what a task or a node does."""
