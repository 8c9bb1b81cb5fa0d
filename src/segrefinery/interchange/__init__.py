"""What other tools read and write: labels, masks and pictures."""
