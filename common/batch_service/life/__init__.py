"""What a document may become. Each function changes documents in the caller's transaction, or refuses."""
