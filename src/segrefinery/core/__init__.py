"""What every floor uses: errors, settings, randomness, precision, progress, resizing."""
