"""What the tutorial client stands on."""
